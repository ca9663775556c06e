/** The menu that asks until when an item is snoozed. */

import { anchor, h, moveFocus } from "./dom";
import type { Language } from "./texts";

/** Opens the menu beside `button`, as a child of `parent`. Calls `chosen` with a moment after `now` (Unix seconds). */
export function openSnooze(
  parent: Element,
  button: Element,
  { texts }: Language,
  now: number,
  chosen: (until: Date) => void,
): void {
  const menu = h("div", {
    part: "menu",
    popover: "",
    role: "menu",
    "aria-label": texts.snooze,
    onkeydown: (event: KeyboardEvent) => moveFocus(event, "[role=menuitem]", { ArrowDown: 1, ArrowUp: -1 }, false),
    ontoggle: (event: Event) => {
      if ((event as ToggleEvent).newState !== "closed") return;
      menu.remove();
      if ((button.getRootNode() as ShadowRoot).activeElement === null) button.closest("li")?.focus();
    },
  });
  const choose = (until: Date): void => {
    menu.hidePopover();
    if (until.getTime() > now * 1_000) chosen(until);
  };
  const morning = (days: number): Date => {
    const moment = new Date(now * 1_000);
    moment.setDate(moment.getDate() + days);
    moment.setHours(9, 0, 0, 0);
    return moment;
  };
  const daysToMonday = (8 - new Date(now * 1_000).getDay()) % 7 || 7;
  const choices: [string, Date][] = [
    [texts.hour, new Date((now + 3_600) * 1_000)],
    [texts.tomorrow, morning(1)],
    [texts.week, morning(daysToMonday)],
  ];
  const own = h("input", {
    type: "datetime-local",
    onchange: () => own.value && choose(new Date(own.value)),
  });
  menu.append(
    ...choices.map(([label, until]) =>
      h("button", { role: "menuitem", tabindex: "-1", onclick: () => choose(until) }, label),
    ),
    h("label", { role: "none" }, texts.custom, own),
  );
  parent.append(menu);
  menu.showPopover();
  anchor(menu, button, false);
  menu.querySelector("button")!.focus();
}
