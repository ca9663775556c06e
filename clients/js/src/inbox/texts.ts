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

const en: Texts = {
  title: "Notifications",
  fresh: "New",
  all: "All",
  earlier: "Earlier",
  dismiss: "Dismiss",
  dismissAll: "Dismiss all",
  dismissed: "Dismissed",
  undo: "Undo",
  snooze: "Snooze",
  snoozed: "Snoozed until",
  hour: "In an hour",
  tomorrow: "Tomorrow",
  week: "Next week",
  custom: "Pick a date and time",
  preferences: "Preferences",
  push: "Push",
  email: "E-mail",
  quietHours: "Quiet hours",
  from: "From",
  to: "To",
  quietHint: "Notifications arrive afterwards",
  back: "Back",
  empty: "You are all caught up",
  loading: "Loading…",
  offline: "Offline. Changes are sent later.",
  stopped: "Signed out. Reload the page.",
  pending: "Not sent yet",
  due: "Reminder",
  failed: "This did not work. Try again.",
  expired: "Expired",
  now: "now",
};

/** The texts by language. English is built in; the other languages load later, with `inbox-more`. */
export const LANGUAGES: Record<string, Texts> = { en };
/** Units of time with their length in seconds, largest first. */
const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["year", 31_536_000],
  ["month", 2_592_000],
  ["week", 604_800],
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
];

/** Texts, numbers and times in one language. */
export class Language {
  readonly texts: Texts;
  readonly isRightToLeft: boolean;
  /** Whether the texts are in this language. */
  readonly isKnown: boolean;
  readonly number: Intl.NumberFormat;
  readonly moment: Intl.DateTimeFormat;
  private readonly relative: Intl.RelativeTimeFormat;

  /** `locale`: such as `de-AT`; unknown languages get English texts. `own`: texts that replace those of the language. */
  constructor(locale: string, own?: Partial<Texts>) {
    const language = locale.split("-", 1)[0]!.toLowerCase();
    this.isKnown = language in LANGUAGES;
    this.texts = { ...(LANGUAGES[language] ?? en), ...own };
    this.isRightToLeft = /^(ar|fa|he|ur)$/.test(language);
    this.number = new Intl.NumberFormat(locale);
    this.moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "short" });
    this.relative = new Intl.RelativeTimeFormat(locale, { numeric: "auto", style: "short" });
  }

  /** Returns how long ago a moment is, in the largest unit. Both times are Unix seconds. */
  ago(at: number, now: number): string {
    const seconds = at - now;
    for (const [unit, length] of UNITS) {
      if (Math.abs(seconds) >= length) return this.relative.format(Math.trunc(seconds / length), unit);
    }
    return this.texts.now;
  }
}
