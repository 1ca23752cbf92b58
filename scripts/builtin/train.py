"""Train the built-in model for a number of minutes, however fast the machine is."""

import copy
import math
import multiprocessing as mp
import os
import signal
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from builtin.data import Batch, Feed, corrupt, pad
from builtin.net import PAD, Reader, Shape
from builtin.render import Renderer
from builtin.score import error_rate
from builtin.text import VOCABULARY, decode, encode
from ocr_mlx.model.families.nougat.strips import PLANES, StripSettings

SHORT_UNTIL, SHORT_WIDTH = 0.1, 112
DECAY_FROM = 0.35
LONGEST_STEP = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What the command line asks for; `pixels` is the width of all strips of one process's batch together."""

    out: Path
    minutes: float
    processes: int
    threads: int
    workers: int
    pixels: int
    seed: int
    device: str
    rate: float = 2.5e-3


class Trainer:
    """Weights in float32, their bfloat16 copy that computes, their running mean that is exported, and the clock."""

    def __init__(self, plan: Plan, rank: int) -> None:
        torch.manual_seed(plan.seed)
        self.plan, self.rank = plan, rank
        self.shape = Shape(vocabulary=len(VOCABULARY), planes=PLANES)
        self.master = Reader(self.shape).to(plan.device)
        self.worker = copy.deepcopy(self.master).bfloat16()
        self.mean = copy.deepcopy(self.master)
        self.optimizers = make_optimizers(self.master, plan.rate)
        self.step, self.spent, self.progress, self.stopping = 0, 0.0, 0.0, False
        torch.manual_seed(plan.seed + 1 + rank)

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """One step on one batch; the decoder's and the CTC head's loss."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.plan.rate * group["share"] * rate(self.progress, self.step)
        loss, help_loss = losses(self.worker, batch, self.plan.device)
        (loss + (0.5 if self.progress < 0.5 else 0.2) * help_loss).backward()
        self.collect()
        norm = torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        self.step += 1
        if torch.isfinite(norm):  # one bad batch in a few hundred thousand strips must not end the run
            for optimizer in self.optimizers:
                optimizer.step()
            self.follow()
        return loss.detach().nan_to_num(), help_loss.detach().nan_to_num()

    @torch.no_grad()
    def collect(self) -> None:
        """Give the weights the mean gradient of all processes, and every process the first one's clock."""
        now = 1.0 if self.stopping else self.spent / (60 * self.plan.minutes)
        clock = torch.tensor([now if self.rank == 0 else 0.0])
        parts = [used.grad.float().flatten() for used in self.worker.parameters()]
        flat = torch.cat([*parts, clock.to(self.plan.device)])
        if self.plan.processes > 1:
            dist.all_reduce(flat)
        self.progress = float(flat[-1])
        flat /= self.plan.processes
        at = 0
        for own, used in zip(self.master.parameters(), self.worker.parameters(), strict=True):
            own.grad = flat[at : at + own.numel()].view_as(own)
            at += own.numel()
            used.grad = None

    @torch.no_grad()
    def follow(self) -> None:
        """Carry the new weights to the computing copy and to the running mean."""
        master = list(self.master.parameters())
        for own, used in zip(master, self.worker.parameters(), strict=True):
            used.copy_(own)
        keep = min(0.998, (self.step + 1) / (self.step + 20))
        torch._foreach_lerp_(list(self.mean.parameters()), master, 1 - keep)

    def save(self) -> None:
        """Write everything needed to go on, in one move."""
        path = self.plan.out / "checkpoint.pt"
        content = {
            "step": self.step,
            "spent": self.spent,
            "master": self.master.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        torch.save(content, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def resume(self) -> bool:
        """Go on from the checkpoint in the output folder, if there is one."""
        path = self.plan.out / "checkpoint.pt"
        if not path.exists():
            return False
        content: dict[str, Any] = torch.load(path, map_location=self.plan.device)
        self.step, self.spent = content["step"], content["spent"]
        self.progress = self.spent / (60 * self.plan.minutes)
        self.master.load_state_dict(content["master"])
        self.worker.load_state_dict(content["master"])
        self.mean.load_state_dict(content["mean"])
        for optimizer, state in zip(self.optimizers, content["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        return True


def make_optimizers(model: Reader, speed: float) -> list[torch.optim.Optimizer]:
    """Muon for the hidden matrices, AdamW for embeddings, heads, norms and biases."""
    others = ("tokens", "places", "decoder.head", "frames", "bias_table", "project")
    named = list(model.named_parameters())
    hidden = [p for name, p in named if p.ndim == 2 and not any(word in name for word in others)]
    rest = [p for name, p in named if p.ndim != 2 or any(word in name for word in others)]
    muon = torch.optim.Muon(
        [{"params": hidden, "share": 1.0}], lr=speed, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW([{"params": rest, "share": 0.8}], lr=speed, betas=(0.9, 0.98), weight_decay=0.01)
    return [muon, adam]


def rate(progress: float, step: int) -> float:
    """The learning rate's share of its peak: up in 200 steps, level, then down to nothing along a cosine."""
    late = min(1.0, max(0.0, (progress - DECAY_FROM) / (1 - DECAY_FROM)))
    return min(1.0, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * late))


def losses(model: Reader, batch: Batch, device: str) -> tuple[Tensor, Tensor]:
    """Cross entropy of the next character, and CTC on the encoder's columns, both per character."""
    ids = torch.from_numpy(batch.ids).to(device)
    pixels = batch.picture().to(device, torch.bfloat16)
    logits, frames = model(pixels, corrupt(ids[:, :-1], 0.12))
    loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD)
    lengths = (ids != PAD).sum(1) - 2
    chances = frames.float().log_softmax(-1).transpose(0, 1)
    steps = torch.full_like(lengths, len(chances))
    ctc = F.ctc_loss(chances, ids[:, 1:], steps, lengths, blank=PAD, reduction="sum", zero_infinity=True)
    return loss, ctc / lengths.sum().clamp(min=1)


def held_out_sample(count: int) -> tuple[Batch, list[str]]:
    """Strips in fonts and of texts that training never sees."""
    settings = StripSettings()
    strips = list(islice(Renderer(7, settings, held_out=True, worn=0.2).strips(lambda: settings.width), count))
    texts = [text for _, text in strips]
    return Batch(np.stack([pixels for pixels, _ in strips]), pad([encode(text) for text in texts])), texts


def evaluate(model: Reader, sample: tuple[Batch, list[str]], device: str) -> tuple[float, list[tuple[str, str]]]:
    """Character error rate of greedy reading, and a few (text, reading) pairs that differ."""
    batch, texts = sample
    read = [decode(ids) for ids in model.read(batch.picture().to(device))]
    wrong = [(text, got) for text, got in zip(texts, read, strict=True) if text != got]
    return error_rate(texts, read), wrong[:6]


def train(plan: Plan) -> None:
    """Train until the time is used, Ctrl-C or SIGTERM; write checkpoints and train.log into the output folder."""
    plan.out.mkdir(parents=True, exist_ok=True)
    (plan.out / "meeting").unlink(missing_ok=True)
    others = [mp.get_context("spawn").Process(target=take_part, args=(plan, r)) for r in range(1, plan.processes)]
    for other in others:
        other.start()
    take_part(plan, 0)


def take_part(plan: Plan, rank: int) -> None:
    """Train as one of several processes that share their gradients; the first one writes the files."""
    torch.set_num_threads(plan.threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if plan.processes > 1:
        meeting = f"file://{(plan.out / 'meeting').resolve()}"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=plan.processes)
    trainer = Trainer(plan, rank)
    resumed = trainer.resume()
    feed = Feed(1000 * plan.seed + 10 * trainer.step + plan.workers * rank, plan.pixels, plan.workers)
    if rank:
        while trainer.progress < 1:
            trainer.train_step(next_batch(trainer, feed))
    else:
        (plan.out / "train.pid").write_text(str(os.getpid()))
        lead(trainer, feed, resumed)
    feed.close()


def next_batch(trainer: Trainer, feed: Feed) -> Batch:
    """A batch of short strips at first, of full ones later."""
    feed.width.value = SHORT_WIDTH if trainer.progress < SHORT_UNTIL else StripSettings().width
    return feed.queue.get()


def lead(trainer: Trainer, feed: Feed, resumed: bool) -> None:
    """The first process's loop: it keeps the time, in which pauses of the process do not count, and the log."""
    log = (trainer.plan.out / "train.log").open("a", buffering=1)
    size = sum(p.numel() for name, p in trainer.master.named_parameters() if not name.startswith("frames"))
    print(f"{size / 1e6:.2f} M parameters, {'resumed at' if resumed else 'from'} step {trainer.step}", file=log)
    sample = held_out_sample(256)
    saved = tested = trainer.spent
    strips, sums, before = 0, torch.zeros(2), time.monotonic()

    def stop(*_: object) -> None:
        trainer.stopping = True

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    while trainer.progress < 1:
        batch = next_batch(trainer, feed)
        sums += torch.stack(trainer.train_step(batch)).cpu()
        strips += len(batch.ids) * trainer.plan.processes
        now = time.monotonic()
        trainer.spent += min(LONGEST_STEP, now - before)
        before = now
        if trainer.step % 100 == 0:
            loss, ctc = (sums / 100).tolist()
            sums.zero_()
            done = f"{trainer.spent / 60:6.1f} min  step {trainer.step}  strips {strips}"
            print(f"{done}  loss {loss:.3f}  ctc {ctc:.3f}  queue {feed.queue.qsize()}", file=log)
        if trainer.spent - saved > 150:
            trainer.save()
            saved = trainer.spent
        if trainer.spent - tested > (240 if trainer.spent < 1200 else 600):
            errors, wrong = evaluate(trainer.mean, sample, trainer.plan.device)
            print(f"{trainer.spent / 60:6.1f} min  CER {100 * errors:.2f} %  {wrong}", file=log)
            tested = trainer.spent
    trainer.save()
    print("stopped" if trainer.stopping else "done", file=log)
