/** The menu with the times until which an item can be snoozed. */
import type { Language } from "./texts.js";
/** Opens the menu beside `button`, in `parent`. `chosen` gets a moment after `now` (Unix seconds). */
export declare function openSnooze(parent: Element, button: Element, { texts }: Language, now: number, chosen: (until: Date) => void): void;
