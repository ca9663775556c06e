/** The texts of the elements. No text depends on a plural: "New: 3" is right for every number in every language. */
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
/** The known languages. English is always there; the others come with `inbox-more`. */
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
    /** `locale`: such as `de-AT`; an unknown language has English texts. `own`: texts that replace these. */
    constructor(locale: string, own?: Partial<Texts>);
    /** Returns how long ago a moment is, in the largest unit. Both times are Unix seconds. */
    ago(at: number, now: number): string;
}
