/** The style of the elements, as one constructed sheet: no `<style>`, which a strict policy refuses. */

const CSS = `
:host{--accent:var(--gregor-accent,light-dark(#2f5bea,#8ea6ff));--bg:var(--gregor-background,light-dark(#fff,#17181c));
--fg:var(--gregor-text,light-dark(#16181d,#eceef2));--muted:var(--gregor-muted,light-dark(#5d6470,#a2a9b6));
--line:var(--gregor-border,light-dark(#e4e6eb,#2d3038));--hover:var(--gregor-hover,light-dark(#f4f5f8,#212329));
--radius:var(--gregor-radius,14px);--due:var(--gregor-due,light-dark(#9a5b00,#f0b35a));
font:var(--gregor-font-size,14px)/1.45 var(--gregor-font,system-ui,sans-serif);color:var(--fg);display:inline-block;text-align:start}
:host([theme=light]){color-scheme:light}:host([theme=dark]){color-scheme:dark}:host([theme=auto]){color-scheme:light dark}
:host([hidden]),[hidden]{display:none!important}
:host(gregor-inbox){display:block}
*{box-sizing:border-box;margin:0}
button,input{font:inherit;color:inherit}
button{border:0;background:none;cursor:pointer;border-radius:8px;min-width:28px;min-height:28px;padding:3px 8px}
button:hover{background:var(--hover)}
:focus-visible{outline:2px solid var(--gregor-focus,var(--accent));outline-offset:-2px}
svg{width:18px;height:18px;fill:none;stroke:currentColor;stroke-width:1.6;stroke-linecap:round;stroke-linejoin:round;display:block}
.icon{padding:5px;color:var(--muted)}.icon:hover{color:var(--fg)}
.bell{position:relative;width:var(--gregor-bell-size,40px);height:var(--gregor-bell-size,40px);padding:0;display:grid;place-items:center;border-radius:50%}
.bell svg{width:55%;height:55%}
.badge{position:absolute;inset-block-start:2px;inset-inline-end:0;min-width:18px;height:18px;padding:0 5px;border-radius:9px;
background:var(--gregor-badge-background,light-dark(#d92d20,#e5483c));color:var(--gregor-badge-text,#fff);font-size:11px;font-weight:650;line-height:18px;text-align:center;border:1px solid transparent}
.bell[data-offline] svg{opacity:.55}
[popover]{position:fixed;inset:auto;border:1px solid var(--line);background:var(--bg);color:var(--fg);padding:0;border-radius:var(--radius);
box-shadow:var(--gregor-shadow,0 12px 40px rgb(0 0 0/.18),0 2px 8px rgb(0 0 0/.08));overflow:hidden}
.popover{width:min(var(--gregor-width,400px),calc(100vw - 16px))}
.panel{display:flex;flex-direction:column;background:var(--bg);max-height:var(--gregor-max-height,min(560px,calc(100vh - 96px)));position:relative}
header{display:flex;align-items:center;gap:2px;padding-inline:16px 10px;padding-block:12px 8px}
h2{font-size:1.14em;font-weight:650;flex:1;min-width:0}
h3{font-size:.86em;font-weight:600;color:var(--muted);padding-block:10px 4px;padding-inline:16px}
.action{color:var(--accent);font-weight:550;font-size:.93em;white-space:nowrap}
.bar{padding:7px 16px;background:var(--hover);color:var(--muted);font-size:.93em;display:flex;align-items:center;gap:8px}
.bar span{flex:1}
.scroll{overflow-y:auto;overscroll-behavior:contain;flex:1;padding-block:4px 6px;scrollbar-width:thin}
ul{list-style:none;padding:0}
li{position:relative;padding-block:9px;padding-inline:28px 10px;margin-inline:4px;border-radius:10px;content-visibility:auto;contain-intrinsic-size:auto 58px}
li:hover,li:focus-within{background:var(--hover)}
li::before{content:"";position:absolute;inset-block-start:16px;inset-inline-start:12px;width:8px;height:8px;border-radius:50%;background:var(--gregor-dot,var(--accent))}
li[data-due]::before{background:var(--due)}
li[data-pending]::before{background:none;border:1.5px dashed var(--muted)}
[dir=ltr] [dir=auto]{text-align:left}[dir=rtl] [dir=auto]{text-align:right}
.item-title{display:block;font-weight:600;color:inherit;text-decoration:none;overflow-wrap:anywhere}a.item-title:hover{text-decoration:underline}
.item-text{color:var(--muted);overflow-wrap:anywhere;display:-webkit-box;-webkit-line-clamp:3;-webkit-box-orient:vertical;overflow:hidden}
.item-meta{font-size:.86em;color:var(--muted);display:flex;gap:8px}
.mark{color:var(--due);font-weight:550}
.item-actions{display:flex;position:absolute;inset-block-start:5px;inset-inline-end:6px;background:var(--hover);border-radius:8px;opacity:0}
li:hover .item-actions,li:focus-within .item-actions{opacity:1}
@media(hover:none){.item-actions{opacity:1;background:none}li{padding-inline-end:70px}}
.empty{padding:44px 16px;text-align:center;color:var(--muted)}.empty svg{width:34px;height:34px;margin:0 auto 10px;stroke-width:1.2}
.earlier{margin:4px 8px;color:var(--muted);font-size:.93em}
.quiet{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media(prefers-reduced-motion:no-preference){.item-actions{transition:opacity .12s}.badge{transition:transform .2s}
[popover]:popover-open{animation:in .14s ease-out}@keyframes in{from{opacity:0;transform:translateY(-6px)}}
li[data-new]{animation:new .5s ease-out}@keyframes new{from{opacity:0;transform:translateY(-10px)}}}
@media(forced-colors:active){.badge,li::before{forced-color-adjust:none;background:Highlight;color:HighlightText}
.badge{border-color:ButtonText}li:hover,li:focus-within{outline:1px solid Highlight}}`;

let sheet: CSSStyleSheet | undefined;
let more = "";

/** Returns the style sheet of all elements. It is made on first use: a server has no `CSSStyleSheet`. */
export function styles(): CSSStyleSheet {
  if (sheet === undefined) {
    sheet = new CSSStyleSheet();
    sheet.replaceSync(CSS + more);
  }
  return sheet;
}

/** Adds the style of the parts that load later (`inbox-more`). */
export function addStyles(css: string): void {
  if (more === css) return;
  more = css;
  sheet?.replaceSync(CSS + more);
}

export const ICONS = {
  bell: "M10 2.5a5 5 0 0 1 5 5c0 4 1.5 5.5 2 6H3c.5-.5 2-2 2-6a5 5 0 0 1 5-5zM8.3 16.2a1.8 1.8 0 0 0 3.4 0",
  close: "M5.5 5.5l9 9M14.5 5.5l-9 9",
  clock: "M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6.5V10l2.5 1.8",
  sliders: "M3 6h7M14 6h3M3 14h3M10 14h7M12 4v4M8 12v4",
  done: "M4 10.5l4 4 8-9",
} as const;
