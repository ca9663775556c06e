/** The texts of the elements. No text depends on a number: "New: 3" needs no plural in any language. */
/** The texts by name; the property `i18n` of an element replaces some of them. */
export interface Texts {
    title: string;
    fresh: string;
    all: string;
    earlier: string;
    dismiss: string;
    dismissAll: string;
    dismissed: string;
    undo: string;
    snooze: string;
    snoozed: string;
    hour: string;
    tomorrow: string;
    week: string;
    custom: string;
    preferences: string;
    push: string;
    email: string;
    quietHours: string;
    from: string;
    to: string;
    quietHint: string;
    back: string;
    empty: string;
    loading: string;
    offline: string;
    stopped: string;
    pending: string;
    due: string;
    failed: string;
    expired: string;
    now: string;
}
/** The texts by language. English is built in; the other languages load later, with `inbox-more`. */
export declare const LANGUAGES: Record<string, Texts>;
/** Texts, numbers and times in one language. */
export declare class Language {
    readonly texts: Texts;
    readonly isRightToLeft: boolean;
    /** Whether the texts are in this language. */
    readonly isKnown: boolean;
    readonly number: Intl.NumberFormat;
    readonly moment: Intl.DateTimeFormat;
    private readonly relative;
    /** `locale`: such as `de-AT`; unknown languages get English texts. `own`: texts that replace those of the language. */
    constructor(locale: string, own?: Partial<Texts>);
    /** Returns how long ago a moment is, in the largest unit. Both times are Unix seconds. */
    ago(at: number, now: number): string;
}
