"""The report: one HTML file that carries its pictures and needs nothing from the network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bag_to_policy.summary import Summary

__all__ = ["Picture", "write_report"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #2b2b2b; background: #fff;
       max-width: 860px; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; margin-bottom: .25rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { color: #5f5e5b; margin-top: 0; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .35rem .7rem; border-bottom: 1px solid #e3e2e0; }
th:first-child, td:first-child { text-align: left; }
tr.best td { font-weight: 600; }
img, svg { max-width: 100%; height: auto; display: block; }
img.pixels { image-rendering: pixelated; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 1rem; }
figcaption { color: #5f5e5b; font-size: .9rem; margin-top: .4rem; } figure { margin: 0; }
"""


@dataclass(frozen=True)
class Picture:
    """A PNG, animated or not, with its caption."""

    png: bytes
    caption: str


def write_report(
    path: Path,
    summary: Summary,
    *,
    curves: Sequence[str],
    clip: Picture,
    sheet: Picture,
) -> None:
    """Write the report; the file is complete or not there.

    Args:
        path: Where it goes.
        summary: All figures.
        curves: ``<svg>`` elements.
        clip: The learned policy at work.
        sheet: One batch as the trainer received it.
    """
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>From a rosbag to a policy</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>From a rosbag to a policy</h1>
<p class="lead">{_lead(summary)}</p>
<h2>Scores</h2>
{_scores(summary)}
<h2>The learned policy</h2>
{_figure(clip)}
<h2>Learning curves</h2>
<div class="curves">{"".join(curves)}</div>
<h2>One batch as the trainer received it</h2>
{_figure(sheet, "pixels")}
<h2>Figures of this run</h2>
{_figures(summary)}
</body>
</html>
"""
    partial = path.with_suffix(".partial")
    partial.write_text(page, "utf-8")
    partial.replace(path)


def _lead(summary: Summary) -> str:
    behaviour, lapo = summary.behaviour, summary.lapo
    return (
        f"Two arms, three cameras, {behaviour.episodes} recorded episodes of mixed quality: the "
        f"recording succeeds in {behaviour.success_rate:.0%} of its episodes, the policy that "
        f"LAPO learned from it in {lapo.success_rate:.0%} of {lapo.episodes} roll-outs."
    )


def _scores(summary: Summary) -> str:
    scores = summary.scores()
    marked = ' class="best"'
    best = max(scores, key=lambda name: scores[name].return_mean)
    rows = "".join(
        f"<tr{marked if name == best else ''}><td>{escape(name)}</td>"
        f"<td>{score.return_mean:.2f}</td><td>{score.return_std:.2f}</td>"
        f"<td>{score.success_rate:.0%}</td><td>{score.episodes}</td></tr>"
        for name, score in scores.items()
    )
    head = "<tr><th></th><th>mean return</th><th>std</th><th>success</th><th>episodes</th></tr>"
    return f"<table>{head}{rows}</table>"


def _figures(summary: Summary) -> str:
    figures = summary.figures()
    figures |= {
        f"seconds, {stage}": f"{seconds:.1f}" for stage, seconds in summary.stage_seconds.items()
    }
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>"
        for name, value in figures.items()
    )
    return f"<table>{rows}</table>"


def _figure(picture: Picture, kind: str = "") -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    caption = escape(picture.caption)
    return (
        f'<figure><img class="{kind}" alt="{caption}" src="data:image/png;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
