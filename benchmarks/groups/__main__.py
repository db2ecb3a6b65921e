"""python -m benchmarks.groups: how calls travel together, in virtual time. See README.md."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.groups.simulation import Load, Setting, in_virtual_time, simulate
from graph.engine import Priority

_HEAD = "calls/s | mean ms | p95 ms | calls per message | replicas busy"


def main() -> None:
    """Print three tables."""
    print(f"\n| callers, replicas | calls at each caller | groups under way | {_HEAD} |\n|{'---|' * 8}")
    for callers, replicas, at_once in ((1, 1, 16), (4, 1, 16), (1, 4, 64), (4, 4, 16), (1, 1, 2)):
        for groups in (None, 1, 2, 16):
            setting = Setting(callers=callers, replicas=replicas, groups=groups)
            _row(f"{callers}, {replicas} | {at_once} | {groups or 'adapts'}", setting, Load(at_once=at_once))
    print(f"\n| crops of a call | load | batches in a group | {_HEAD} |\n|{'---|' * 8}")
    for sizes in ((11,), (1, 1, 1, 40)):
        for share in (0.5, 0.8):
            for batches in (1, 4, 1000):
                setting = Setting(group_batches=batches)
                # each call by itself: those of few crops share batches, so more than this is possible
                each_s = sum(-(-n // setting.batch) * setting.batch_s + n * setting.crop_s for n in sizes) / len(sizes)
                name = f"{sizes} | {share} | {batches if batches < 1000 else 'any number'}"
                _row(name, setting, Load(sizes, rate=share / each_s))
    print(f"\n| HTTP requests | {_HEAD} |\n|{'---|' * 6}")
    for name, model in (("large model", Setting()), ("small model", Setting(batch_s=0.002, crop_s=0.0005))):
        for at_once, rate in ((8, 0.0), (0, 10.0)):
            http = Load(at_once=at_once, rate=rate)
            queue = Load(at_once=32, priority=Priority.QUEUE)
            how = f"{at_once} at once" if at_once else f"{rate:g} a second"
            _row(f"{name}, {how}, alone", model, http)
            _row(
                "... beside a saturating queue, of the same priority",
                model,
                http,
                replace(queue, priority=http.priority),
            )
            _row("... beside a saturating queue", model, http, queue)


def _row(name: str, setting: Setting, *loads: Load) -> None:
    found = in_virtual_time(simulate(setting, *loads))
    print(
        f"| {name} | {found.per_s:.0f} | {found.mean_ms:.0f} | {found.p95_ms:.0f} | {found.calls_per_message:.1f} "
        f"| {found.busy:.0%} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
