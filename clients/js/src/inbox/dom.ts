/** Functions that build DOM without `innerHTML`, which strict policies (Trusted Types) refuse. */

export type Child = Node | string | null | false | undefined;
type Props = Record<string, unknown>;

const SVG = "http://www.w3.org/2000/svg";

/**
 * Returns a new element. In `props`, a function is a listener (`onclick`), `true` an attribute without a value; false and
 * null are left out; `part` is also the class.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (name === "part") element.className = element.part.value = value as string;
    else set(element, name, value as string | boolean | null | undefined);
  }
  element.append(...(children.filter(Boolean) as (Node | string)[]));
  return element;
}

/** Returns an SVG icon of 20 × 20 units from the `d` of its path. */
export function icon(path: string): SVGSVGElement {
  const svg = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  svg.append(line);
  return svg;
}

/** Sets or removes an attribute; writes nothing if it has the value already. */
export function set(element: Element, name: string, value: string | boolean | null | undefined): void {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else {
    const text = value === true ? "" : value;
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Sets the text of an element; writes nothing if it has the text already, so that a selection stays. */
export function text(element: Element, content: string): void {
  if (element.textContent !== content) element.textContent = content;
}

/** Puts the nodes into the parent in this order, and removes all others. Nodes in place are not touched. */
export function place(parent: Element, nodes: readonly Element[]): void {
  const kept = new Set<Element>(nodes);
  for (const child of [...parent.children]) if (!kept.has(child)) child.remove();
  nodes.forEach((node, n) => {
    if (parent.children[n] !== node) parent.insertBefore(node, parent.children[n] ?? null);
  });
}

/** Places a popover below or above its anchor, inside the window, aligned with the start or the end of the anchor. */
export function anchor(popover: HTMLElement, to: Element, alignStart: boolean): void {
  const box = to.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const rtl = getComputedStyle(to).direction === "rtl";
  const left = alignStart !== rtl ? box.left : box.right - width;
  const below = box.bottom + 6;
  const above = box.top - height - 6;
  const top = below + height > innerHeight && above > 0 ? above : below;
  popover.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  popover.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
}

/**
 * Moves the focus between the elements of `selector`. `steps`: 1 (next) or -1 (previous) by key; left and right are
 * swapped in right-to-left text. `clicks`: also click the element.
 */
export function moveFocus(event: KeyboardEvent, selector: string, steps: Record<string, number>, clicks: boolean): void {
  const box = event.currentTarget as HTMLElement;
  const isMirrored = getComputedStyle(box).direction === "rtl" && /Left|Right/.test(event.key);
  const step = (steps[event.key] ?? 0) * (isMirrored ? -1 : 1);
  if (step === 0) return;
  const all = [...box.querySelectorAll<HTMLElement>(selector)];
  const next = all[(all.indexOf(event.target as HTMLElement) + step + all.length) % all.length];
  event.preventDefault();
  next?.focus();
  if (clicks) next?.click();
}
