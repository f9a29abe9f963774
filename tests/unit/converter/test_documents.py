"""What the documents say holds."""

import re
from pathlib import Path

import yaml
from penstock_converter.mapping.parsing import parse_mapping

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "services/converter/penstock_converter"
TEXT = (ROOT / "docs/converting.md").read_text("utf-8")


def test_mappings_in_the_documentation_are_those_that_ship():
    shown = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    shipped = [
        PACKAGE / "mapping/presets" / name
        for name in ("interbotix_waist.yaml", "amber_soccer.yaml")
    ]
    assert [yaml.safe_load(text) for text in shown] == [
        yaml.safe_load(path.read_text("utf-8")) for path in shipped
    ]
    for text in shown:
        parse_mapping(text)


def test_every_reason_for_a_refusal_is_documented():
    raised: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        for call in re.findall(
            r"DataFault\((.*?)reason=\"([A-Z_]+)\"", path.read_text("utf-8"), re.DOTALL
        ):
            raised.add(call[1])
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", TEXT))
    assert len(raised) > 20
    assert raised <= documented, raised - documented
