"""The page's style: colours by name in light and dark, one column on a narrow screen."""

from __future__ import annotations

from helix_crawl_otel.report.svg import LIGHT

__all__ = ["STYLE"]

_DARK = {
    "ink": "#e6edf3",
    "soft": "#9aa4b0",
    "line": "#30363d",
    "rate": "#58a6ff",
    "crawl": "#ff7b72",
    "memory": "#c297ff",
}


def _colours(paper: str, card: str, names: dict[str, str]) -> str:
    return "; ".join([f"--paper: {paper}; --card: {card}", *(f"--{name}: {value}" for name, value in names.items())])


STYLE = f"""\
:root {{ {_colours("#ffffff", "#f6f8fa", LIGHT)}; color-scheme: light dark; }}
@media (prefers-color-scheme: dark) {{ :root {{ {_colours("#0d1117", "#161b22", _DARK)}; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }}
main {{ max-width: 1140px; margin: 0 auto; padding: 24px 20px 60px; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.7rem; line-height: 1.25; margin: 0.3em 0; }}
h2 {{ font-size: 1.25rem; margin: 2em 0 0.4em; }}
p {{ margin: 0.5em 0; max-width: 75ch; }}
.lead {{ font-size: 1.08rem; }}
.tiles {{ display: grid; grid-template-columns: repeat(4, 1fr); gap: 12px; margin: 20px 0; }}
.tiles div {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }}
dt {{ color: var(--soft); font-size: 0.88rem; }}
dd {{ margin: 2px 0 0; font-size: 1.3rem; font-weight: 600; }}
figure {{ margin: 14px 0; }}
svg {{ display: block; width: 100%; height: auto; }}
.narrow {{ display: none; }}
figcaption {{ color: var(--soft); font-size: 0.88rem; }}
figcaption ul {{ list-style: none; margin: 6px 0; padding: 0; display: flex; flex-wrap: wrap; gap: 2px 18px; }}
figcaption i {{ display: inline-block; width: 22px; vertical-align: middle; margin-right: 7px; height: 0; }}
i.rate {{ border-top: 3px solid var(--rate); }}
i.crawl {{ border-top: 4px solid var(--crawl); }}
i.unfinished {{ border-top: 3px dashed var(--ink); }}
i.base {{ border-top: 2px dashed var(--soft); }}
i.limit {{ border-top: 2px dotted var(--crawl); }}
i.memory {{ border-top: 3px solid var(--memory); }}
i.shared {{ border-top: 2px dashed var(--crawl); }}
i.action, i.worker {{ width: 0; height: 15px; margin: 0 10px; }}
i.action {{ border-left: 1.5px solid var(--ink); }}
i.worker {{ border-left: 2px dotted var(--soft); }}
table {{ border-collapse: collapse; width: 100%; font-size: 0.9rem; }}
th, td {{ text-align: left; vertical-align: top; padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 500; }}
td:nth-child(-n+2) {{ font-variant-numeric: tabular-nums; white-space: nowrap; }}
td:nth-child(3) {{ font-weight: 600; }}
.worker td {{ color: var(--soft); font-weight: 400 !important; }}
th:nth-child(4) {{ width: 40%; }}
th:nth-child(5), th:nth-child(6) {{ width: 19%; }}
@media (max-width: 720px) {{
  main {{ padding: 16px 14px 40px; }}
  h1 {{ font-size: 1.4rem; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  .wide, thead {{ display: none; }}
  .narrow {{ display: block; }}
  table, tbody, tr, td {{ display: block; max-width: none !important; }}
  tr {{ border-bottom: 1px solid var(--line); padding: 10px 0; }}
  td {{ border: 0; padding: 1px 0; }}
  td[data-is="#"], td[data-is="at"] {{ display: inline; padding-right: 12px; color: var(--soft); }}
  td[data-is="evidence"]::before, td[data-is="before"]::before, td[data-is="after"]::before {{
    content: attr(data-is) ": "; color: var(--soft); }}
}}
@media print {{ :root {{ {_colours("#ffffff", "#f6f8fa", LIGHT)}; }} section {{ break-inside: avoid; }} }}
"""
