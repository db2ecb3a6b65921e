"""python -m benchmarks.groups: how calls travel together, in virtual time. See README.md."""

from __future__ import annotations

from benchmarks.groups.simulation import Load, Setting, in_virtual_time, simulate
from graph.engine import Priority

_FIGURES = "calls/s | mean ms | p95 ms | calls per message | replicas busy"
_LARGE, _SMALL = Setting(), Setting(batch_s=0.002, crop_s=0.0005)


def main() -> None:
    """Print three tables."""
    _head("callers, replicas | calls at each caller | groups under way at each caller")
    for callers, replicas, at_once in ((1, 1, 16), (4, 1, 16), (1, 4, 64), (4, 4, 16), (1, 1, 2)):
        for groups in (None, 1, 2, 16):
            setting = Setting(callers=callers, replicas=replicas, groups=groups)
            _row(
                f"{callers}, {replicas} | {at_once} | {groups or 'follows the replies'}", setting, Load(at_once=at_once)
            )
    _head("crops of a call | of the capacity | batches in a group")
    for sizes in ((11,), (1, 1, 1, 40)):
        for share in (0.5, 0.8):
            for batches in (1, 4, 1000):
                setting = Setting(group_batches=batches)
                # of one call by itself: calls of few crops share batches, so more than this is possible
                each_s = sum(-(-n // setting.batch) * setting.batch_s + n * setting.crop_s for n in sizes) / len(sizes)
                name = (
                    f"{' or '.join(map(str, dict.fromkeys(sizes)))} | {share} | {batches if batches < 1000 else 'any'}"
                )
                _row(name, setting, Load(sizes, rate=share / each_s))
    _head("model | HTTP requests | beside")
    queue, same = Load(at_once=32, priority=Priority.QUEUE), Load(at_once=32)
    for model, setting in (("45 ms a batch", _LARGE), ("6 ms a batch", _SMALL)):
        for how, http in (("8 at once", Load(at_once=8)), ("10 a second", Load(rate=10))):
            _row(f"{model} | {how} | nothing", setting, http)
            _row(f"{model} | {how} | a saturating queue", setting, http, queue)
            _row(f"{model} | {how} | the same without priorities", setting, http, same)
        _row(f"{model} | (the queue itself) | nothing", setting, queue)
        _row(f"{model} | (the queue itself) | 10 HTTP requests a second", setting, queue, Load(rate=10))


def _head(columns: str) -> None:
    print(f"\n| {columns} | {_FIGURES} |\n|{'---|' * (columns.count('|') + 6)}")


def _row(name: str, setting: Setting, *loads: Load) -> None:
    found = in_virtual_time(simulate(setting, *loads))
    print(
        f"| {name} | {found.per_s:.0f} | {found.mean_ms:.0f} | {found.p95_ms:.0f} | {found.calls_per_message:.1f} "
        f"| {found.busy:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
