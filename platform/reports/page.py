"""One self-contained HTML page: what was found, how sure that is, what it looks like, and how to do it again."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from sightline.methods.contract import Visualisation
from sightline.methods.errors import SightlineError
from sightline.platform.core.files import make_folder, write_text
from sightline.platform.core.redaction import redact
from sightline.platform.evaluation.results import MethodResult, ProbeResult, SkippedProbe

from .charts import Points, line_chart, seconds, shares
from .evaluation import method_section, probe_sections
from .sections import Section

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself is told to fetch nothing and run nothing."""


@dataclass(frozen=True)
class ReportPage:
    """What a page holds. All texts are plain; what is empty is left out of the page."""

    title: str
    kind: str = "pre-training run"
    """What the page is of."""
    headline: str = ""
    """The verdict: one plain sentence."""
    tone: Literal["", "good", "bad"] = ""
    """Colour of the verdict's edge."""
    detail: str = ""
    """The numbers it rests on."""
    warnings: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    """(label, value)"""
    control: MethodResult | None = None
    """Control metrics, or test metrics of a model with a predictor."""
    visualisations: Sequence[Visualisation] = ()
    sections: Sequence[Section] = ()
    probes: Sequence[ProbeResult | SkippedProbe] = ()
    curves: Mapping[str, Points] = field(default_factory=dict)
    """(step, value) by name; those whose names end in "loss" share a chart."""
    time: Mapping[str, float] = field(default_factory=dict)
    """Seconds by phase of training."""
    next_steps: Sequence[str] = ()
    commands: Sequence[str] = ()
    """Shell lines that do it again."""
    provenance: Sequence[str] = ()
    settings: Mapping[str, object] = field(default_factory=dict)
    """By `section.key`."""
    identities: Sequence[tuple[str, str]] = ()
    """(label, value): hashes and addresses, for the end of the page."""


@dataclass(frozen=True)
class Picture:
    """A visualisation as the page holds it: PNG in base64, sizes in pixels."""

    title: str
    caption: str
    width: int
    height: int
    png: str

    @classmethod
    def of(cls, visualisation: Visualisation) -> Picture:
        height, width = visualisation.image.shape[:2]
        buffer = io.BytesIO()
        Image.fromarray(visualisation.image).save(buffer, "PNG", optimize=True)
        return cls(visualisation.title, visualisation.caption, width, height, base64.b64encode(buffer.getvalue()).decode())


def write_report(path: str | Path, page: ReportPage) -> Path:
    """Writes the page and returns its path. Every text is escaped. Raises `SightlineError` where it cannot be written."""
    path = Path(path)
    try:
        make_folder(path.parent)
        write_text(path, render(page))
    except OSError as error:
        raise SightlineError(f"cannot write the report {path}: {error.strerror}", "make room or choose another place") from None
    return path


def _protocols(probes: Iterable[ProbeResult | SkippedProbe]) -> list[tuple[str, str]]:
    done = [probe for probe in probes if isinstance(probe, ProbeResult) and probe.protocol_hash]
    return [(f"Protocol {probe.name}", f"version {probe.protocol['version']}, {probe.protocol_hash}") for probe in done]


def render(page: ReportPage) -> str:
    """The page as HTML."""
    templates = Environment(
        loader=PackageLoader("sightline.platform.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: redact(value) if type(value) is str else value,
    )
    control = method_section(page.control) if page.control else None
    sections = [*page.sections, *probe_sections(page.probes), _curves(page.curves)]
    return templates.get_template("page.html.j2").render(
        policy=POLICY,
        page=page,
        control=control,
        pictures=[Picture.of(visualisation) for visualisation in page.visualisations],
        sections=[section for section in sections if not section.empty],
        shares=shares(page.time),
        training_time=seconds(sum(page.time.values())),
        identities=[*page.identities, *_protocols(page.probes)],
    )


def _curves(curves: Mapping[str, Points]) -> Section:
    losses = {name: points for name, points in curves.items() if name.endswith("loss")}
    others = [line_chart(f"{name[:1].upper()}{name[1:]}", {name: points}, "step") for name, points in curves.items() if name not in losses]
    return Section("Learning curves", charts=[line_chart("Loss", losses, "step"), *others])
