"""End the Ray that `sightline up` keeps for this $SIGHTLINE_HOME. A command that is using it is not disturbed: then nothing is ended."""

from __future__ import annotations

import argparse

SUMMARY = "end the Ray that `sightline up` keeps"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.platform.core import kept_ray
    from sightline.platform.core.screen import Screen

    ended = kept_ray.down()
    Screen(stderr=args.json).print(f"ended the Ray at {ended.address}" if ended else "no Ray is kept here")
    return {"ended": ended.pid if ended else None}
