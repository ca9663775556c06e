/** The menu that asks until when an item is snoozed. */
import type { Language } from "./texts.js";
/** Opens the menu beside `button`, as a child of `parent`. Calls `chosen` with a moment after `now` (Unix seconds). */
export declare function openSnooze(parent: Element, button: Element, { texts }: Language, now: number, chosen: (until: Date) => void): void;
