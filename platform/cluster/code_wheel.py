"""Sends the code to a cluster: one wheel, packed from the modules that run here, and a check there that these modules run.

Packed by hand, because a build takes seconds and needs the source folder. The wheel names no dependencies: Ray installs it with
`pip install --target`, which would download all of them for every job. The nodes have them; `verify_driver` compares versions. The
wheel's version ends in the digest of its content, because Ray takes two wheels of one name for the same.
"""

from __future__ import annotations

import base64
import hashlib
import os
import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution, version
from importlib.util import find_spec
from pathlib import Path

from sightline.methods.errors import CallError, SightlineError
from sightline.platform.core.version import DISTRIBUTION

DIGEST = "SIGHTLINE_SHIPPED"
"""Environment variable of a job: the digest of the code that was sent with it."""
PACKAGES = ("sightline", "sightline.methods", "sightline.platform", "sightline.pipelines")
"""Each with all below its folder; of the first, which holds the others where a wheel is installed, only its own modules."""
SUFFIXES = (".py", ".yaml", ".j2", ".css")
REQUIREMENTS = "requirements.txt"
EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the wheel, so that the same code gives the same wheel."""


@dataclass(frozen=True)
class Code:
    """The modules, recipes and templates of `PACKAGES` (path in the wheel -> content), and their distribution's metadata."""

    files: dict[str, bytes]
    release: str
    python: str
    requirements: tuple[str, ...]
    entry_points: str

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of the SHA-256 over everything but the release."""
        digest = hashlib.sha256()
        about = "\n".join((self.python, *self.requirements, self.entry_points)).encode()
        for name, content in [*sorted(self.files.items()), ("", about)]:
            digest.update(f"{len(name)} {name} {len(content)} ".encode() + content)
        return digest.hexdigest()[:12]


def running_code() -> Code:
    """The code that this process imports: from an editable checkout, an installed package or a wheel that was sent."""
    files: dict[str, bytes] = {}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SightlineError(f"{package} is not importable", "install Sightline again")
        folder = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(folder.glob("*") if package == PACKAGES[0] else folder.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                files[f"{package.replace('.', '/')}/{path.relative_to(folder).as_posix()}"] = path.read_bytes()
    about = distribution(DISTRIBUTION)
    return Code(
        files=files,
        release=about.version.partition("+")[0],
        python=about.metadata["Requires-Python"] or "",
        requirements=_requirements(about),
        entry_points=(about.read_text("entry_points.txt") or "").strip(),
    )


def _requirements(about: Distribution) -> tuple[str, ...]:
    return tuple(about.requires or (about.read_text(REQUIREMENTS) or "").splitlines())


def pack(code: Code, folder: Path) -> Path:
    """Write the wheel of `code` to `folder`. Nothing is built and nothing is downloaded."""
    release = f"{code.release}+{code.digest}"
    name = DISTRIBUTION.replace("-", "_")
    about = f"{name}-{release}.dist-info"
    python = f"Requires-Python: {code.python}\n" if code.python else ""
    files = {
        **code.files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {DISTRIBUTION}\nVersion: {release}\n{python}".encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: sightline\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": code.entry_points.encode(),
        f"{about}/{REQUIREMENTS}": "\n".join(code.requirements).encode(),
    }
    record = [f"{name},sha256={_hash(content)},{len(content)}" for name, content in files.items()]
    files[f"{about}/RECORD"] = "\n".join([*record, f"{about}/RECORD,,", ""]).encode()
    wheel = folder / f"{name}-{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED)
    return wheel


def _hash(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def verify() -> None:
    """In a job that was sent, raise `SightlineError` where this process runs other code. Elsewhere do nothing."""
    sent = os.environ.get(DIGEST)
    if sent and (code := running_code()).digest != sent:
        where = next(iter(find_spec("sightline.platform").submodule_search_locations))  # type: ignore[union-attr, arg-type]
        raise SightlineError(
            f"code {sent} was sent, but code {code.digest} runs here, from {where}",
            "another Sightline comes first on this node's path: take it out of PYTHONPATH, or uninstall it there",
        )


def verify_driver() -> None:
    """`verify`, and raise `CallError` where this node lacks requirements of the code, or the job has no $SIGHTLINE_HOME."""
    if not os.environ.get(DIGEST):
        return
    verify()
    if lacking := unmet(running_code().requirements):
        raise CallError(
            f"the cluster does not have what this version of Sightline asks for: {'; '.join(lacking)} (asked from {sys.executable})",
            "install it on every node, in the environment that `ray start` runs in: see setup_commands in cluster.yaml",
        )
    if not os.environ.get("SIGHTLINE_HOME"):
        raise CallError(
            "the job has no SIGHTLINE_HOME: a run would lie in a folder that the job leaves behind",
            "name a folder that all nodes share: sightline submit --home FOLDER -- ..., or set it where `ray start` runs",
        )


def unmet(requirements: tuple[str, ...]) -> list[str]:
    """The requirements that this environment does not meet, each with the reason."""
    from packaging.requirements import Requirement

    lacking = []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            lacking.append(f"no {requirement.name}")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            lacking.append(f"{requirement.name} {found}, not {requirement.specifier}")
    return lacking
