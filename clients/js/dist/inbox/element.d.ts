/** The base of the elements: client, language, and one update for all changes of a turn. */
import type { Client, State } from "../types.js";
import { Language, type Texts } from "./texts.js";
/** A server has no `HTMLElement`; the module can be imported there, and does nothing. */
declare const Base: typeof HTMLElement;
/** Returns why the copy is not up to date: the name of its text, and of the part of a bell. */
export declare function troubleOf(state: State | null): "stopped" | "offline" | null;
export declare abstract class GregorElement extends Base {
    #private;
    static observedAttributes: string[];
    protected language: Language;
    /** The client; set it to use your own instead of one from the attributes. */
    get client(): Client | null;
    set client(client: Client | null);
    /** Texts that replace those of the language. */
    get i18n(): Partial<Texts>;
    set i18n(texts: Partial<Texts>);
    /** The language: the attribute `locale`, else that of the page, else that of the browser. */
    get locale(): string;
    connectedCallback(): void;
    disconnectedCallback(): void;
    attributeChangedCallback(name: string, before: string | null, after: string | null): void;
    /** Returns the time of this device in Unix seconds. */
    protected now(): number;
    /** Fires an event that leaves the shadow root. Returns false if a listener prevented the default. */
    protected fire(name: string, detail: unknown, cancelable?: boolean): boolean;
    protected abstract build(): Node[];
    protected abstract localize(): void;
    protected abstract update(state: State | null): void;
    protected attached(): void;
    protected detached(): void;
    /** Updates once for all changes of this turn. A microtask, since a hidden page gets no animation frame. */
    protected queue(): void;
}
export {};
