"""Run any command as a job of a running Ray cluster, with the code as it is here.

  sightline submit -- pretrain croco-tiny data.train=./pairs/train        # head on this machine: paths and $SIGHTLINE_HOME as here
  sightline submit --home /shared/runs -- pretrain my.yaml data.train=/shared/pairs/train
  sightline submit --address https://ray.example.org --no-wait --home /shared/runs -- resume first
  sightline submit --follow JOB
  sightline submit --stop JOB                                             # a training run ends with a checkpoint

The log is followed until the job ends; the exit code is the command's own. Ctrl-C leaves the job running, and in a terminal asks whether
to stop it. Nothing of this environment is sent: passwords and keys belong where `ray start` runs. docs/clusters.md says more.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

INTERMIXED = False
SUMMARY = "run any of these as a job of a running Ray cluster, with the code as it is here"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="-- COMMAND ...", help="a sightline command with all its words")
    parser.add_argument(
        "--address", metavar="URL", help="the cluster's dashboard (default: $RAY_API_SERVER_ADDRESS, $RAY_ADDRESS, loopback)"
    )
    parser.add_argument(
        "--home", metavar="FOLDER", help="$SIGHTLINE_HOME of the job: a folder that all nodes share (default: the cluster's)"
    )
    parser.add_argument("--no-wait", action="store_true", help="print the job's id and leave")
    parser.add_argument(
        "--insecure", action="store_true", help="accept plain HTTP to another machine, and a cluster without authentication"
    )
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--follow", metavar="JOB", help="show the log of a job from its beginning, until it ends")
    other.add_argument("--stop", metavar="JOB", help="ask a job to end and wait for it; a training run leaves a checkpoint")


def run(args: argparse.Namespace) -> dict[str, object]:
    from sightline.methods.errors import CallError
    from sightline.platform.cluster import submit

    given = args.follow or args.stop
    if bool(given) == bool(args.words):
        raise CallError(
            "name a command, or a job with --follow or --stop", "for example: sightline submit -- pretrain croco-tiny data.train=..."
        )
    if args.words:
        _check(args.words)
    try:
        client = submit.connect(submit.find_address(args.address), args.insecure)
    except KeyboardInterrupt:
        if args.stop:
            _say(f"{args.stop} was not asked to end")
        raise
    if args.stop:
        return _stop(client, args.stop)
    job = args.follow or submit.new_job()
    try:
        if args.follow:
            return _follow(client, job, {}, args.json)
        words = [*args.words, "--json"] if args.json and "--json" not in args.words else args.words
        digest = submit.submit(client, job, words, args.home)
        _say(f"{job}: code {digest} on {client.get_address()}; stop it with: sightline submit --stop {job}")
        if args.no_wait:
            return {"job": job, "code": digest, "address": client.get_address()}
        return _follow(client, job, {"code": digest}, args.json)
    except KeyboardInterrupt:
        return _interrupted(client, job)


def _check(words: list[str]) -> None:
    """Parse the command's words here, so that a mistake is reported before anything is sent."""
    from sightline.methods.errors import CallError

    from .__main__ import parse

    if words[0] == "submit":
        raise CallError("a job does not submit jobs", "leave the second `submit` out")
    parse(words)


def _follow(client: JobSubmissionClient, job: str, known: dict[str, object], as_json: bool) -> dict[str, object]:
    from sightline.platform.cluster import submit

    told: list[str] = []
    screen = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        told.append(text)
        print(text, end="", file=screen, flush=True)

    details = submit.follow(client, job, write)
    submit.check_end(job, details)
    return {"job": job, "status": details.status.value, **known, "result": submit.result_in("".join(told))}


def _interrupted(client: JobSubmissionClient, job: str) -> dict[str, object]:
    """After Ctrl-C: say what becomes of the job, and in a terminal ask. Raises `KeyboardInterrupt` where it is not to be stopped."""
    from sightline.methods.errors import CallError, SightlineError
    from sightline.platform.cluster import submit

    found = f"Follow it: sightline submit --follow {job}   stop it: sightline submit --stop {job}"
    try:
        details = submit.details_of_sent(client, job)
    except CallError:
        _say(f"stopped before the cluster had {job}: nothing runs there")
        raise KeyboardInterrupt from None
    except (OSError, SightlineError):
        _say(f"{client.get_address()} does not answer: {job} runs there if it was sent. {found}")
        raise KeyboardInterrupt from None
    if details.status.is_terminal():
        _say(f"{job} has ended: {details.status.value.lower()}. Its log: sightline submit --follow {job}")
    elif _answers_yes(f"\nstop {job} too, with a checkpoint? [y/N] "):
        return _stop(client, job)
    else:
        _say(f"{job} goes on. {found}")
    raise KeyboardInterrupt


def _answers_yes(question: str) -> bool:
    """Who presses Ctrl-C or Ctrl-D instead of an answer, or is no terminal, says no."""
    if not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        return False


def _stop(client: JobSubmissionClient, job: str) -> dict[str, object]:
    from sightline.platform.cluster import submit

    asked = False
    try:
        submit.ask_to_end(client, job)
        asked = True
        details = submit.wait_for_end(client, job)
    except KeyboardInterrupt:
        _say(f"{job} was asked to end {'and does so' if asked else 'perhaps, perhaps not'}. See it: sightline submit --follow {job}")
        raise
    _say("\n".join(client.get_job_logs(job).splitlines()[-3:]))
    _say(f"{job}: {details.status.value.lower()}")
    return {"job": job, "status": details.status.value}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
