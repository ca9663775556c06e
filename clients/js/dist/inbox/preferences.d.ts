/** The view of preferences: push and e-mail for each category, and the quiet hours. */
import type { Client } from "../types.js";
import type { Tab } from "./tabs.js";
import type { Language } from "./texts.js";
/** Calls to the inbox: a read or write failed, and the user closes the view. */
interface Hooks {
    failed(error: unknown): void;
    closed(): void;
}
/** Returns the view. It reads the preferences, and writes each change at once. */
export declare function openPreferences(client: Client, language: Language, tabs: Tab[], hooks: Hooks): HTMLElement;
export {};
