"""An HTML page that holds everything inside itself: its look, its script, its frame."""

import html
from collections.abc import Sequence

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c1d1f; --soft: #5c6066;
  --line: #d9dbde; --card: #ffffff; --warn: #fff4d6; --link: #0b62a8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #16181b; --ink: #e7e8ea; --soft: #a5abb3; --line: #383c42;
    --card: #1f2226; --warn: #3a2f12; --link: #7db8ee; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 76rem; background: var(--page);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.lead { color: var(--soft); margin: 0 0 1rem; }
nav a { color: var(--link); margin-right: 1.1rem; }
section.caveats { background: var(--warn); border-radius: 8px; padding: .3rem 1.2rem .8rem;
  margin: 1.5rem 0; }
section.caveats h2 { margin-top: .7rem; }
figure { margin: 0 0 1.5rem; padding: .75rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: 8px; overflow-x: auto; }
figure img, figure video { display: block; margin: 0 auto; max-width: 100%; height: auto; }
figcaption { color: #5c6066; font-size: .85rem; text-align: center; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .84rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .42rem .6rem; text-align: right; white-space: nowrap; }
th[scope=row], th:first-child { text-align: left; position: sticky; left: 0;
  background: var(--card); font-weight: 600; }
thead th { border-bottom: 2px solid var(--line); }
th.sorts { cursor: pointer; }
th.sorts:hover, th.sorts:focus { text-decoration: underline; }
th[aria-sort=ascending]::after { content: " \\2191"; }
th[aria-sort=descending]::after { content: " \\2193"; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
sup { color: var(--soft); padding-left: .2em; line-height: 0; }
ul.notes { color: var(--soft); font-size: .85rem; padding-left: 1.2rem; }
details { border: 1px solid var(--line); border-radius: 8px; background: var(--card);
  padding: .5rem .9rem; margin: .5rem 0; }
summary { cursor: pointer; font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; font-size: .875rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .8rem; }
@media (max-width: 40rem) {
  th[scope=row], th:first-child { white-space: normal; max-width: 9rem; overflow-wrap: normal; }
}
@media print { details, figure { break-inside: avoid; } nav, video { display: none; }
  .scroll { overflow: visible; } th, td { white-space: normal; } }
"""
# A click on a column's name sorts by it, the greatest first; a second one turns the order round.
# A number is the first of its cell, in seconds where there are several units: "2 h 05 min".
SCRIPT = """
const units = { k: 1e3, M: 1e6, h: 3600, min: 60, s: 1 };
function number(text) {
  text = text.replaceAll(",", "");
  const times = [...text.matchAll(/([\\d.]+) (h|min|s)\\b/g)];
  if (times.length) return times.reduce((sum, [, n, unit]) => sum + n * units[unit], 0);
  const found = text.match(/(-?[\\d.]+)([kM]\\b)?/);
  return found ? found[1] * (units[found[2]] || 1) : NaN;
}
function sort(head, column) {
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const words = [...body.rows].map((row) => row.cells[column].textContent);
  const rows = [...body.rows].map((row, index) => [row, words[index], number(words[index])]);
  rows.sort(([, a, x], [, b, y]) => {
    if (column === 0) return (down ? 1 : -1) * a.localeCompare(b, "en", { numeric: true });
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
    return (down ? -1 : 1) * (x - y);
  });
  body.append(...rows.map(([row]) => row));
}
for (const row of document.querySelectorAll("thead tr")) {
  [...row.cells].forEach((head, column) => {
    head.className = "sorts";
    head.tabIndex = 0;
    head.title = "sort by this column";
    head.onclick = () => sort(head, column);
    head.onkeydown = (event) => { if (event.key === "Enter") sort(head, column); };
  });
}
"""


def whole(title: str, parts: Sequence[str]) -> str:
    """The page of these blocks of HTML; `title` is text."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )
