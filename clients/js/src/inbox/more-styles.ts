/** The style of the parts that load later: tabs, earlier items, the menu of snooze, preferences. */

export const MORE_STYLES = `
.tabs{display:flex;gap:2px;padding:0 12px;overflow-x:auto;border-block-end:1px solid var(--line);scrollbar-width:none}
.tabs button{border-radius:8px 8px 0 0;color:var(--muted);white-space:nowrap;padding:6px 10px;border-block-end:2px solid transparent}
.tabs [aria-selected=true]{color:var(--fg);font-weight:600;border-block-end-color:var(--accent)}
@media(forced-colors:active){.tabs button{border-block-end-color:Canvas}.tabs [aria-selected=true]{border-block-end-color:Highlight}}
.earlier-list li{opacity:.85}.earlier-list li::before{display:none}
[data-view]>:is(.header,.tabs,.undo){display:none}.earlier-list .mark{color:inherit}
.earlier-list .item-title{font-weight:500}
.menu{padding:6px;min-width:190px}.menu button{display:block;width:100%;text-align:start;padding:6px 10px}
.menu label{display:block;padding:6px 10px;color:var(--muted);font-size:.93em}.menu input{display:block;margin-block-start:4px;width:100%;border:1px solid var(--line);border-radius:8px;padding:5px 8px;background:var(--bg)}
table{width:100%;border-collapse:collapse}th,td{padding:8px;text-align:center;font-weight:500;border-block-end:1px solid var(--line)}
th:first-child{text-align:start;padding-inline-start:16px}thead th{color:var(--muted);font-size:.86em}
input[type=checkbox]{width:20px;height:20px;accent-color:var(--accent)}td label{display:inline-grid;place-items:center;min-width:28px;min-height:28px}
fieldset{border:0;padding:0 16px 12px}legend{padding:12px 0 0}legend label{display:flex;align-items:center;gap:8px;font-weight:500;min-height:28px}
.times{display:flex;flex-wrap:wrap;gap:8px 16px;padding-block-start:4px}.times label{display:flex;align-items:center;gap:8px;color:var(--muted)}
[type=time]{color:var(--fg);border:1px solid var(--line);border-radius:8px;padding:4px 8px;background:var(--bg);min-height:28px}[type=time]:disabled{opacity:.5}
fieldset p{color:var(--muted);font-size:.86em;padding-block-start:6px}`;
