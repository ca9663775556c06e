/**
 * Drop-in elements: `<gregor-bell>` and `<gregor-inbox>`. Importing the module defines them.
 *
 * Example: `<gregor-bell url="https://push.example.com" token-url="/my/token"></gregor-bell>`. All attributes, properties,
 * events, parts and style variables are in docs/reference/elements.md.
 */
import { GregorBell } from "./inbox/bell.js";
import { GregorInbox } from "./inbox/panel.js";
/** Defines the elements. Does nothing if they are defined, or on a server. */
export declare function defineElements(): void;
export { connect } from "./index.js";
export { GregorBell, GregorInbox };
export type { Shown } from "./inbox/panel.js";
export type { Texts } from "./inbox/texts.js";
