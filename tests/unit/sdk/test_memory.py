"""The memory that a process may use, as control groups of either version limit it."""

import os

import pytest

from penstock.memory import memory_limit_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def tree(tmp_path):
    """Writes files below a root of the test's own."""

    def tree(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return tree


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, MACHINE),
        ({"proc/self/cgroup": "0::/\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, MACHINE),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "200000000\n"}, 200_000_000),
        (
            {
                "proc/self/cgroup": "0::/jobs/one\n",
                "sys/fs/cgroup/jobs/one/memory.max": "max\n",
                "sys/fs/cgroup/jobs/memory.max": "300000000\n",
            },
            300_000_000,
        ),
        (
            {
                "proc/self/cgroup": "0::/jobs/one\n",
                "sys/fs/cgroup/jobs/one/memory.max": "100000000\n",
                "sys/fs/cgroup/jobs/memory.max": "300000000\n",
            },
            100_000_000,
        ),
        # The path of the host, seen from inside a container.
        (
            {
                "proc/self/cgroup": "0::/docker/0123\n",
                "sys/fs/cgroup/memory.max": "400000000\n",
            },
            400_000_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n4:memory:/a\n0::/\n",
                "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "500000000\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            500_000_000,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{2 * MACHINE}"}, MACHINE),
    ],
)
def test_the_smallest_limit_counts(tree, files, wanted):
    assert memory_limit_bytes(tree(files)) == wanted


def test_this_process_has_some():
    assert 0 < memory_limit_bytes() <= MACHINE
