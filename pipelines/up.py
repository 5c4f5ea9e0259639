"""Keep Ray and its workers ready on this machine, so that the next commands start faster.

  sightline up
  sightline pretrain croco-tiny data.train=./pairs/train
  sightline down

One command at a time uses it: pretrain, finetune, resume, quickstart, sweep, compare. A second one meanwhile starts Ray of its own, and
so does one of other code, other packages or another environment, which says so. It listens on the loopback address alone and asks for
Ray's token (~/.ray/auth_token). When nothing has used it for --idle minutes, it ends by itself; `sightline down` ends it at once.
"""

from __future__ import annotations

import argparse

SUMMARY = "keep Ray ready on this machine for the next commands"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from sightline.platform.core.kept_ray import IDLE_MINUTES, PROCESSES

    parser.add_argument(
        "--idle",
        type=float,
        default=IDLE_MINUTES,
        metavar="MINUTES",
        help=f"end after so long without a command; default: {IDLE_MINUTES:g}",
    )
    parser.add_argument(
        "--processes", type=int, default=PROCESSES, metavar="N", help=f"worker processes that wait with PyTorch; default: {PROCESSES}"
    )


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform.core import kept_ray
    from sightline.platform.core.screen import Screen

    if not 0 < args.idle <= kept_ray.MOST_IDLE_MINUTES:
        raise CallError(f"--idle {args.idle:g}: between 0 and {kept_ray.MOST_IDLE_MINUTES:g} minutes")
    if args.processes < 0:
        raise CallError(f"--processes {args.processes}: 0 or more")
    kept, started = kept_ray.up(args.idle, args.processes)
    console = Screen(stderr=args.json)
    console.print(f"Ray {'is' if started else 'was already'} up at {kept.address}, process {kept.pid}, {kept.cpus} CPUs")
    if (kept.idle_minutes, kept.processes) != (args.idle, args.processes):
        console.warn("with other options than these; `sightline down` first to change them")
    console.print(f"its workers import PyTorch now; it ends after {kept.idle_minutes:g} minutes without a command, or by `sightline down`")
    return {"address": kept.address, "pid": kept.pid, "cpus": kept.cpus, "idle_minutes": kept.idle_minutes, "started": started}
