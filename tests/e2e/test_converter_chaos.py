"""Chaos: a conversion is killed at every place where dying could matter, and at random moments.

``PENSTOCK_CHAOS_KILLS`` is how often; ``PENSTOCK_CHAOS_SEED`` throws the same dice again. After
every kill each output is the dataset of before or the one that was asked for, never a part of one.
The conversion is then asked for again, and killed again; in the end all is as if nothing had been.
"""

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from bag_recording import ROBOT_MAPPING, robot_messages, write_bag
from converter_chaos import contents, made
from process_forks import Forks

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS, FRAMES = 6, 24
OLD = 2
"""Recordings of the dataset that is there before, if there is one."""

PLACES = {
    "converter.restored": 1,
    "converter.stage.begun": RECORDINGS,
    "converter.stage.frame": RECORDINGS * FRAMES,
    "converter.stage.written": RECORDINGS,
    "converter.stage.described": RECORDINGS,
    "converter.stage.renamed": RECORDINGS,
    "converter.staged": 1,
    "converter.join.linked": RECORDINGS,
    "converter.join.added": RECORDINGS,
    "converter.join.finished": 1,
    "converter.join.reported": 1,
    "converter.publish.synced": 1,
    "converter.publish.set_aside": 1,
    "converter.publish.renamed": 1,
    "converter.publish.durable": 1,
    "converter.publish.old_removed": 1,
    "converter.publish.hdf5_done": 1,
    "converter.published": 1,
    "converter.stage.removed": RECORDINGS,
    "converter.removed": 1,
}
"""In the order of a conversion; how often it comes by."""

MODES = ("new", "replace", "grow")
ONLY_REPLACING = ("converter.publish.set_aside", "converter.restored")
ONLY_APART = ("converter.publish.hdf5_done",)
EACH_OUTPUT = (
    "converter.publish.synced",
    "converter.publish.set_aside",
    "converter.publish.renamed",
    "converter.publish.durable",
    "converter.publish.old_removed",
)

KILLS = int(os.environ.get("PENSTOCK_CHAOS_KILLS", "15"))
SEED = int(os.environ.get("PENSTOCK_CHAOS_SEED") or secrets.randbelow(2**32))
RANDOM_MOMENT, TWO_WORKERS, REMOVED_BY_HAND = 0.35, 0.25, 0.3
MOST_KILLS = 4
ROUND_S = 120

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300 + 20 * KILLS)]


class Chaos:
    """One conversion after the other, each killed until it is allowed to end."""

    def __init__(self, folder, forks, dice):
        self.folder, self.forks, self.dice = folder, forks, dice
        self.mapping = folder / "mapping.yaml"
        self.mapping.write_text(ROBOT_MAPPING)
        self.bags = [
            write_bag(folder / f"{number}.bag", robot_messages(FRAMES), "ros1")
            for number in range(RECORDINGS)
        ]
        self.work = folder / "work"
        self.out, self.hdf5 = self.work / "out", self.work / "files"
        self.places, self.stages, self.plain = Counter(), Counter(), Counter()
        self.conversions, self.durations_s = 0, {}
        self.turns = self._turns()
        self.references = {}

    @property
    def kills(self):
        return self.stages.total()

    def conversion(self):
        """Ask for one dataset, and again after every kill."""
        dice = self.dice
        self.conversions += 1
        places = [next(self.turns) for _ in range(dice.randint(1, MOST_KILLS))]
        self.apart = dice.random() < 0.5 or not set(places).isdisjoint(ONLY_APART)
        replacing = not set(places).isdisjoint(ONLY_REPLACING)
        self.mode = dice.choice(MODES[1:] if replacing else MODES)
        self._prepare()
        if "converter.restored" in places:
            places.append("converter.publish.set_aside")
        for place in sorted(places, key=self._order):
            killed = self._killed(place)
            self._check()
            if not killed:
                break
        self._end()

    def _order(self, place):
        if place is None:
            return self.dice.random() * len(PLACES)
        if place == "converter.restored":
            # There is something to restore only after that one.
            return list(PLACES).index("converter.publish.set_aside") + 0.5
        return list(PLACES).index(place)

    def _turns(self):
        """Places without end, each as often as the others; None is a random moment."""
        while True:
            for place in self.dice.sample(list(PLACES), len(PLACES)):
                while self.dice.random() < RANDOM_MOMENT:
                    yield None
                yield place

    def _prepare(self):
        """What there is before, and what will be; the HDF5 files inside or in a folder apart."""
        self.before, self.wanted = self._reference()
        self._lay_out()

    def _lay_out(self):
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        self.staged = set()
        before = self.folder / f"{self.mode}-{self.apart}"
        if before.exists():
            shutil.copytree(before, self.work, dirs_exist_ok=True)

    def _reference(self):
        """What conversions make that nobody kills; made when it is first asked for."""
        key = (self.mode, self.apart)
        if key not in self.references:
            self._lay_out()
            before = None
            if self.mode != "new":
                command = self._command(self.bags[:OLD])[:-1]
                if self.mode == "replace":
                    command.append("task=Before.")
                assert self._wait(self._start(command)) == 0, self._said()
                before = {final: made(contents(final)) for final in self._outputs()}
                shutil.copytree(self.work, self.folder / f"{self.mode}-{self.apart}")
            assert self._wait(self._start(self._command())) == 0, self._said()
            wanted = {final: contents(final) for final in self._outputs()}
            self.references[key] = before, wanted
        return self.references[key]

    @property
    def _new_bags(self):
        return self.bags[OLD:] if self.mode == "grow" else self.bags

    def _command(self, bags=None, workers=1):
        command = [*map(str, bags or self._new_bags), "--mapping", str(self.mapping)]
        command += ["--out", str(self.out), "--workers", str(workers)]
        command += ["--hdf5", str(self.hdf5)] if self.apart else []
        return command + {"new": [], "replace": ["--overwrite"], "grow": ["--append"]}[self.mode]

    def _start(self, command, failpoint=""):
        return self.forks.start("converter_chaos:convert", failpoint, arguments=command)

    def _killed(self, place):
        """Start, and kill at a place or at any moment; False if it came to its end before."""
        if place is None:
            workers = 2 if self.dice.random() < TWO_WORKERS else 1
            # What is staged takes no more time.
            left = 1 - 0.8 * len(self.staged) / len(self._new_bags)
            wait_s = self.dice.uniform(0, left * self._duration_s(workers))
            process = self._start(self._command(workers=workers))
            status = self._wait(process, time.monotonic() + wait_s)
        else:
            outputs = 1 + (self.apart and place in EACH_OUTPUT)
            reached = max(PLACES[place] * len(self._new_bags) // RECORDINGS, 1)
            count = self.dice.randint(1, outputs * reached)
            status = self._wait(self._start(self._command(), f"{place}:{count}"))
        if status == 0:
            self.plain[place or "any moment"] += 1
            return False
        self.places[place or "any moment"] += 1
        self.stages[self._stage()] += 1
        return True

    def _wait(self, process, end_s=float("inf")):
        deadline_s = time.monotonic() + ROUND_S
        while (status := process.poll()) is None:
            assert time.monotonic() < deadline_s, f"a conversion hangs:\n{self._said()}"
            if time.monotonic() >= end_s:
                # It makes its group first of all, but perhaps not before this.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
            time.sleep(0.002)
        assert status in (0, -9), self._said()
        return status

    def _said(self):
        return self.forks.log.read_text()[-4000:]

    def _duration_s(self, workers):
        """What a conversion takes here, measured when it is first asked for."""
        if workers not in self.durations_s:
            out = self.folder / f"timed-{workers}"
            command = self._command(workers=workers)
            command[command.index("--out") + 1] = str(out)
            if self.apart:
                command[command.index("--hdf5") + 1] = f"{out}-hdf5"
            begun_s = time.monotonic()
            assert self._wait(self._start(command)) == 0, self._said()
            self.durations_s[workers] = time.monotonic() - begun_s
        return self.durations_s[workers]

    def _outputs(self):
        return (self.out, self.hdf5) if self.apart else (self.out,)

    def _partial(self, final):
        return final.with_name(f".{final.name}.partial")

    def _stage(self):
        """How far the conversion had come that was killed."""
        partial = self._partial(self.out)
        if any(final.with_name(f".{final.name}.replaced").exists() for final in self._outputs()):
            return "replacing"
        if self.out.exists() and not (self.before and self._holds_before(self.out)):
            return "removing what was staged" if partial.exists() else "at the end"
        if (partial / "dataset").exists():
            return "joining"
        if len(self._staged_keys()) == len(self._new_bags):
            return "between staging and joining"
        return "staging" if partial.exists() else "at the start"

    def _holds_before(self, final):
        return made(contents(final)) == self.before[final]

    def _staged_keys(self):
        recordings = self._partial(self.out) / "recordings"
        return {path.parent.name for path in recordings.glob("[!.]*/staged.json")}

    def _check(self):
        """No output is in parts, and the one that was there before can still be had."""
        done = True
        for final in self._outputs():
            found = made(contents(final)) if final.exists() else None
            if found == made(self.wanted[final]):
                continue
            done = False
            if self.before:
                replaced = final.with_name(f".{final.name}.replaced")
                before = made(contents(replaced)) if found is None else found
                assert before == self.before[final], final
            else:
                assert found is None, f"{final} is there, and not what was asked for"
        if done:
            self._remove_by_hand()
            return
        keys = self._staged_keys()
        # What is staged is never lost, nor made again.
        assert self.staged <= keys, self.staged - keys
        self.staged = keys

    def _remove_by_hand(self):
        """A person may delete a dataset while what an interrupted conversion left lies there."""
        if self.mode == "new" and self.dice.random() < REMOVED_BY_HAND:
            self.staged = set()
            shutil.rmtree(self.out)

    def _end(self):
        assert self._wait(self._start(self._command())) == 0, self._said()
        for final in self._outputs():
            assert contents(final) == self.wanted[final]
        left = {path.name for path in self.work.iterdir()}
        assert left == {final.name for final in self._outputs()}


def test_killed_anywhere_a_conversion_ends_as_if_it_had_not_been(tmp_path, capsys):
    dice = random.Random(SEED)  # noqa: S311 - to be thrown again
    begun_s = time.monotonic()
    modules = ("penstock.cli", "penstock_converter.cli", "penstock_converter.jobs.job")
    with Forks(*modules, "converter_chaos", log=tmp_path / "log") as forks:
        chaos = Chaos(tmp_path, forks, dice)
        try:
            while chaos.kills < KILLS:
                chaos.conversion()
        except BaseException:
            with capsys.disabled():
                print(  # noqa: T201
                    f"\nconversion {chaos.conversions}: PENSTOCK_CHAOS_SEED={SEED}"
                )
            raise
    hit = chaos.places.keys() & PLACES.keys()
    with capsys.disabled():
        print(  # noqa: T201
            f"\nseed {SEED}: {chaos.kills} kills in {chaos.conversions} conversions "
            f"({', '.join(f'{stage} {count}' for stage, count in chaos.stages.most_common())}), "
            f"at {len(hit)} of {len(PLACES)} places and {chaos.places['any moment']} at any "
            f"moment; {chaos.plain.total()} came to their end before ({dict(chaos.plain)}), "
            f"{time.monotonic() - begun_s:.0f} s"
        )
    missed = PLACES.keys() - hit
    if len(PLACES) * 10 <= KILLS:
        assert not missed
    elif len(PLACES) * 4 <= KILLS:
        assert len(missed) <= len(PLACES) // 4, missed


def test_every_failpoint_of_the_converter_has_its_turn():
    found = {
        name
        for path in (ROOT / "services" / "converter").rglob("*.py")
        for name in re.findall(r'\bfailpoint\("([a-z_0-9.]+)"\)', path.read_text())
    }
    assert found == PLACES.keys()
