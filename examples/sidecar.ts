// Usage: npx tsx examples/sidecar.ts page.png [model]   (or deno run -A, or bun)
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

type Ready = { event: "ready"; url: string; port: number; pid: number; instance: string; version: string };

async function start() {
  // The server ends when our end of its stdin closes, and so when this process ends, however it ends.
  const child = spawn("ocr_mlx", ["serve", "--port", "0", "--stdin-watch"], { stdio: ["pipe", "pipe", "inherit"] });
  for await (const line of createInterface({ input: child.stdout })) {
    return { ready: JSON.parse(line) as Ready, stop: () => child.stdin.end() };
  }
  throw new Error("ocr_mlx ended before it was ready");
}

async function read(url: string, page: string, model: string, signal?: AbortSignal): Promise<string> {
  const answer = await fetch(`${url}/ocr`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ filename: pathToFileURL(resolve(page)).href, model }),
    signal, // aborting stops the work in the server, too
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(text);
  return text;
}

const [page, model = "builtin"] = process.argv.slice(2);
const { ready, stop } = await start();
try {
  console.log(await read(ready.url, page, model));
} finally {
  stop();
}
