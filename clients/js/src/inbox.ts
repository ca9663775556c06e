/**
 * Drop-in elements: `<gregor-bell>` and `<gregor-inbox>`. Importing the module defines them.
 *
 * Example: `<gregor-bell url="https://push.example.com" token-url="/my/token"></gregor-bell>`. All attributes, properties,
 * events, parts and style variables are in docs/reference/elements.md.
 */

import { connect } from "./index.js";
import { GregorBell } from "./inbox/bell";
import { GregorInbox } from "./inbox/panel";
import { setModules } from "./inbox/modules";
import { addStyles } from "./inbox/styles";

/** Defines the elements. Does nothing if they are defined, or on a server. */
export function defineElements(): void {
  if (typeof customElements === "undefined") return;
  if (!customElements.get("gregor-inbox")) customElements.define("gregor-inbox", GregorInbox);
  if (!customElements.get("gregor-bell")) customElements.define("gregor-bell", GregorBell);
}

async function loadMore() {
  const parts = await import("./inbox-more.js");
  addStyles(parts.MORE_STYLES);
  return parts;
}

setModules({ connect, more: loadMore });
defineElements();

export { connect } from "./index.js";
export { GregorBell, GregorInbox };
export type { Shown } from "./inbox/panel";
export type { Texts } from "./inbox/texts";
