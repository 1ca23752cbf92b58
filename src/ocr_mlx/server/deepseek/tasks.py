"""How far the requests are: each one's steps, for those who follow it. Belongs to the event loop's thread.

Whoever comes late gets the last step. Tasks are forgotten some time after their last step, the oldest first when there
are many.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Final

from starlette.exceptions import HTTPException

from ocr_mlx.domain import DocumentStarted, Event, ModelProgress, PageDone
from ocr_mlx.server.deepseek.schemas import Progress

IDLE: Final = 600.0
"""Seconds without a sign of life after which a follower is told `timeout`."""
KEPT: Final = 900.0
"""Seconds that a task outlives its last sign of life."""
MOST: Final = 1000
PENDING: Final = Progress(stage="pending", message="等待开始", percent=0)
UPLOAD: Final = Progress(stage="upload", message="文件已上传", percent=5)
PREPARING: Final = Progress(stage="preprocessing", message="正在准备", percent=10)
COMPLETE = "complete"
ERROR = "error"
_READING = (20, 90)
"""Percent at which reading begins and ends."""


class Task:
    """One request's steps."""

    def __init__(self) -> None:
        self.steps: list[Progress] = [PENDING]
        self.begun = False
        self.seen = time.monotonic()
        self._changed = asyncio.Event()

    @property
    def last(self) -> Progress:
        """Where it stands."""
        return self.steps[-1]

    @property
    def ended(self) -> bool:
        """Whether no step will follow."""
        return self.last.stage in (COMPLETE, ERROR)

    def touch(self) -> None:
        """It is alive. From any thread."""
        self.seen = time.monotonic()

    def say(self, step: Progress) -> None:
        """The next step; none follows the end."""
        if self.ended or step == self.last:
            return
        self.touch()
        self.steps.append(step)
        self._changed.set()
        self._changed = asyncio.Event()

    def complete(self) -> None:
        """It was answered."""
        last = self.last
        self.say(Progress(stage=COMPLETE, current=last.total, total=last.total, message="识别完成", percent=100))

    def fail(self, message: str) -> None:
        """It was refused, failed, or given up."""
        last = self.last
        self.say(Progress(stage=ERROR, current=last.current, total=last.total, message=message, percent=last.percent))

    async def follow(self, ping: float) -> AsyncIterator[Progress | None]:
        """Its steps from the last one on; None after `ping` seconds without one. Ends with the task, or when that is idle."""
        at = len(self.steps) - 1
        while True:
            for step in self.steps[at:]:
                yield step
            at = len(self.steps)
            if self.ended or time.monotonic() - self.seen > IDLE:
                return
            try:
                await asyncio.wait_for(self._changed.wait(), ping)
            except TimeoutError:
                yield None


class Tasks:
    """All tasks of a server."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def create(self) -> str:
        """A new task's id."""
        name = str(uuid.uuid4())
        self._add(name)
        return name

    def find(self, name: str) -> Task | None:
        """The task, if it is known."""
        self._forget()
        return self._tasks.get(name)

    def begin(self, name: str) -> Task:
        """The task that a request belongs to: one that was created, or a new one. Raises 409 for one that is in use."""
        if not name:
            return Task()
        task = self.find(name)
        if task is not None and task.begun and not task.ended:
            raise HTTPException(409, "该任务正在进行中。")
        if task is None or task.ended:
            task = self._add(name)
        task.begun = True
        return task

    def _add(self, name: str) -> Task:
        self._forget()
        self._tasks.pop(name, None)
        while len(self._tasks) >= MOST:
            del self._tasks[min(self._tasks, key=lambda one: self._tasks[one].seen)]
        self._tasks[name] = Task()
        return self._tasks[name]

    def _forget(self) -> None:
        now = time.monotonic()
        self._tasks = {name: task for name, task in self._tasks.items() if now - task.seen < KEPT}


class Listener:
    """Turns a document's events into a task's steps. `on_event` is called on the document's thread."""

    def __init__(self, task: Task) -> None:
        """On the event loop's thread."""
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._total = self._done = 0

    def on_event(self, event: Event) -> None:
        """Tell the task on the event loop."""
        step = self._step(event)
        if step is None:
            self._task.touch()
        else:
            self._loop.call_soon_threadsafe(self._task.say, step)

    def _step(self, event: Event) -> Progress | None:
        match event:
            case ModelProgress():
                return PREPARING.model_copy(update={"message": _model(event), "percent": 10 + 9 * _part(event) // 100})
            case DocumentStarted():
                self._total = len(event.pages)
                return self._reading()
            case PageDone():
                self._done += 1
                return self._reading()
        return None

    def _reading(self) -> Progress:
        low, high = _READING
        done, total = self._done, self._total
        percent = low + (high - low) * done // max(total, 1)
        message = f"正在识别第 {min(done + 1, total)}/{total} 页" if done < total else "识别结束"
        return Progress(stage="inference", current=done, total=total, message=message, percent=percent)

    def finishing(self) -> Progress:
        """What comes after reading."""
        return Progress(
            stage="postprocessing", current=self._done, total=self._total, message="正在整理结果", percent=95
        )


def _part(event: ModelProgress) -> int:
    """Percent of a download; all of it once the model is being loaded."""
    if event.stage != "downloading":
        return 100
    return min(100 * event.done // event.total, 100) if event.total else 0


def _model(event: ModelProgress) -> str:
    return f"正在下载模型（{_part(event)}%）" if event.stage == "downloading" else "正在加载模型"
