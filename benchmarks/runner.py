"""The runner of experiments: runs the contenders in turn, and checks that all did the same work."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from benchmarks.broker import Topics
from benchmarks.environments import ROOT, EnvironmentFailed, command_of
from benchmarks.experiments import Contender, Experiment
from benchmarks.shapes import Shape

TIMEOUT = 900.0  # seconds for one contender
TARGET_PARTITIONS = 4
LINES = 20  # at the end of a contender's errors
FEWEST = 100  # messages, at any scale

Answer = dict[str, float]
# The answers of each contender, one for each round.
Answers = dict[str, list[Answer]]


class ContenderFailed(RuntimeError):
    """A contender ended with an error, or printed no answer."""


class WorkDiffers(RuntimeError):
    """The contenders did not do the same work, so their numbers cannot be compared."""


class Runner:
    """Runs experiments on one broker.

    Args:
        rounds: the number of rounds that count. None: that of the experiment.
        scale: the factor of the numbers of messages.
        is_quick: whether this is a quick run.

    Attributes:
        failures: the errors of contenders.
    """

    def __init__(
        self, topics: Topics, *, rounds: int | None, scale: float = 1.0, is_quick: bool = False
    ) -> None:
        self._topics = topics
        self._rounds = rounds
        self._scale = scale
        self._is_quick = is_quick
        self._run = uuid.uuid4().hex[:8]
        self._filled: dict[tuple[Shape, int], str] = {}
        self.failures: list[str] = []

    def run(self, experiment: Experiment, needed: Collection[str]) -> Answers:
        """Run the needed contenders in turn, A B A B, and return the answers of all rounds.

        A warm-up round comes first, except in a quick run, if there is a single round, or if the
        contenders only wait. A contender that fails is left out of the later rounds and of the
        answers, and is named in `failures`. Raises WorkDiffers.
        """
        contenders = {
            name: contender for name, contender in experiment.contenders.items() if name in needed
        }
        rounds = self._rounds or (experiment.quick_rounds if self._is_quick else experiment.rounds)
        warm_up = 0 if self._is_quick or rounds == 1 or experiment.at_once else 1
        answers: dict[str, list[Answer]] = {name: [] for name in contenders}
        for number in range(rounds + warm_up):
            answered = self._round(experiment, contenders)
            contenders = {name: contenders[name] for name in answered}
            _check(experiment, answered)
            for name, answer in answered.items():
                print(f"  {experiment.name}: {name}: {_shown(answer)}", flush=True)
                if number >= warm_up:
                    answers[name].append(answer)
        return {name: answers[name] for name in contenders}

    def _round(
        self, experiment: Experiment, contenders: Mapping[str, Contender]
    ) -> dict[str, Answer]:
        """Run each contender once. Return the answers of those that did not fail."""

        def one(contender: Contender) -> Answer | None:
            try:
                return self._compete(experiment, contender)
            except (ContenderFailed, EnvironmentFailed) as error:
                self.failures.append(f"{experiment.name}: {error}")
                print(f"!!! {self.failures[-1]}", flush=True)
                return None

        for contender in contenders.values():
            self._topic_of(experiment, contender)
        with ThreadPoolExecutor(len(contenders) if experiment.at_once else 1) as pool:
            found = list(zip(contenders, pool.map(one, contenders.values()), strict=True))
        return {name: answer for name, answer in found if answer is not None}

    def job(self, experiment: Experiment, contender: Contender) -> dict[str, Any]:
        """Return the job of a contender. Create its topics, and fill the topic that it reads."""
        messages = self._messages(experiment)
        if contender.messages is not None:
            messages = self._scaled(contender.messages)
        shape = contender.shape or experiment.shape
        job: dict[str, Any] = {
            "work": contender.work,
            "bootstrap": self._topics.bootstrap,
            "topic": self._topic_of(experiment, contender),
            "messages": messages,
            "size": experiment.size,
            "partitions": 4 if shape is None else shape.partitions,
            "options": dict(contender.options),
        }
        if experiment.size:  # the contender writes
            job["target"] = target = f"bench-{self._run}-{uuid.uuid4().hex[:8]}"
            self._topics.create(target, TARGET_PARTITIONS)
        return job

    def _compete(self, experiment: Experiment, contender: Contender) -> Answer:
        job = self.job(experiment, contender)
        answer = _ask(contender.environment, contender.program, job)
        if answer["count"] != job["messages"]:
            raise WorkDiffers(
                f"{contender.program}, {job['work']}: handled {answer['count']} of"
                f" {job['messages']} messages"
            )
        if experiment.verified:
            reading = {"work": "verify", "topic": job["target"], "partitions": TARGET_PARTITIONS}
            written = _ask("confluent", "confluent_peer", {**job, **reading})
            if any(written[name] != answer[name] for name in ("count", "checksum")):
                raise WorkDiffers(
                    f"{contender.program}, {job['work']}: wrote {_shown(answer)}, but its topic has"
                    f" {_shown(written)}"
                )
        if experiment.size:
            self._topics.delete(job["target"])
        return answer

    def _messages(self, experiment: Experiment) -> int:
        if self._is_quick and experiment.quick is not None:
            return self._scaled(experiment.quick)
        return self._scaled(experiment.messages)

    def _scaled(self, messages: int) -> int:
        return min(messages, max(FEWEST, round(messages * self._scale)))

    def _topic_of(self, experiment: Experiment, contender: Contender) -> str:
        """Return the topic that a contender reads, and fill it. "": it reads none."""
        shape = contender.shape or experiment.shape
        if shape is None:
            return ""
        messages = self._messages(experiment)
        if experiment.backlog is not None:
            messages = max(messages, self._scaled(experiment.backlog))
        key = shape, messages
        if key not in self._filled:
            name = f"bench-{self._run}-{shape.name}-{messages}"
            self._topics.create(name, shape.partitions)
            if messages:
                print(f"  writing {messages:,} messages to {name}", flush=True)
                self._fill(name, shape, messages)
            self._filled[key] = name
        return self._filled[key]

    def _fill(self, topic: str, shape: Shape, messages: int) -> None:
        described = asdict(shape)
        job = {
            "work": "fill",
            "bootstrap": self._topics.bootstrap,
            "topic": topic,
            "messages": messages,
            "size": described.pop("size"),
            "partitions": described.pop("partitions"),
            "options": described,
        }
        _ask("confluent", "confluent_peer", job)


def _ask(environment: str, program: str, job: Mapping[str, Any]) -> Answer:
    """Run a contender, and return its answer."""
    command = [*command_of(environment, program), json.dumps(job)]
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise ContenderFailed(f"{program}, {job['work']}: still ran after {TIMEOUT} s") from error
    lines = ended.stdout.strip().splitlines()
    if ended.returncode != 0 or not lines:
        raise ContenderFailed(
            f"{program}, {job['work']}: exit code {ended.returncode}\n{_end_of(ended.stderr)}"
        )
    answer: Answer = json.loads(lines[-1])
    return answer


def _end_of(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-LINES:])


def _check(experiment: Experiment, answers: Mapping[str, Answer]) -> None:
    """Raise WorkDiffers unless all contenders did the same work."""
    for name in experiment.same:
        if len({answer[name] for answer in answers.values()}) > 1:
            each = ", ".join(f"{who}: {answer[name]}" for who, answer in answers.items())
            raise WorkDiffers(f"{experiment.name}: the contenders differ in {name}: {each}")


def _shown(answer: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in answer.items())
