// Usage: swift examples/Sidecar.swift page.png [model]
import Foundation

struct Ready: Decodable { let url: URL; let port: Int; let pid: Int; let instance: String; let version: String }
struct Failure: Error, CustomStringConvertible { let description: String }

final class Sidecar {
    private let process = Process()
    private let input = Pipe()
    let ready: Ready

    init() throws {
        let output = Pipe()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = ["ocr_mlx", "serve", "--port", "0", "--stdin-watch"]
        process.standardInput = input  // the server ends when this closes, and so when this app ends
        process.standardOutput = output
        try process.run()
        var line = Data()
        while let byte = try output.fileHandleForReading.read(upToCount: 1), byte != Data([10]) { line += byte }
        ready = try JSONDecoder().decode(Ready.self, from: line)
    }

    func read(_ page: URL, model: String) async throws -> String {
        var request = URLRequest(url: ready.url.appendingPathComponent("ocr"), timeoutInterval: 600)
        request.httpMethod = "POST"
        request.setValue("application/json", forHTTPHeaderField: "Content-Type")
        request.httpBody = try JSONEncoder().encode(["filename": page.absoluteString, "model": model])
        let (data, response) = try await URLSession.shared.data(for: request)
        let text = String(decoding: data, as: UTF8.self)
        guard (response as? HTTPURLResponse)?.statusCode == 200 else { throw Failure(description: text) }
        return text
    }

    func stop() { try? input.fileHandleForWriting.close() }
}

let arguments = CommandLine.arguments
let sidecar = try Sidecar()
defer { sidecar.stop() }
print(try await sidecar.read(URL(fileURLWithPath: arguments[1]), model: arguments.count > 2 ? arguments[2] : "builtin"))
