/** A connector that changes the transport by evidence, and goes back to the best one. */

import { type Attempt, Connector } from "./connector";
import { ABNORMAL, BUFFERED } from "./transports";

/** Delays before the best transport is tried again: 10 s, 60 s, then 240 s. */
const FIRST_UPGRADE_MS = 10_000;
const MAX_UPGRADE_MS = 240_000;

export class Ladder extends Connector {
  private _upgrade: Attempt | null = null;
  private _upgrades = 0;
  /** When the best transport is tried again; 0 if no attempt is planned. Connections that end early do not delay it. */
  private _upgradeAt = 0;
  private _upgradeTimer: unknown;

  /**
   * The next transport follows, at once if a proxy buffers this one. If streams and polls cannot reach the gateway at
   * all, the best one follows.
   */
  protected override _failed(code: number, delay: number): number {
    this._level = code !== ABNORMAL || !this._level ? (this._level + 1) % this._options.transports.length : 0;
    return code === BUFFERED && this._level ? 0 : delay;
  }

  protected override _good(): void {
    const { env } = this._options;
    env.stopTimer(this._upgradeTimer);
    if (this._level === 0) return;
    const now = env.monotonic();
    this._upgradeAt ||= now + Math.min(MAX_UPGRADE_MS, FIRST_UPGRADE_MS * 6 ** this._upgrades++);
    this._upgradeTimer = env.startTimer(() => this._try(), this._upgradeAt - now);
  }

  protected override _leave(): void {
    this._options.env.stopTimer(this._upgradeTimer);
    this._drop(this._upgrade);
    super._leave();
  }

  /** Opens the best transport beside the present one. Its connection takes over as soon as it has brought a frame. */
  private async _try(): Promise<void> {
    this._upgradeAt = 0;
    const before = this._current;
    const token = await this.freshToken().catch(() => null);
    // The login may have changed since the last connection.
    if (!before || before.over || token === null || !this._events.identify(token)) return;
    const attempt = (this._upgrade = this._attempt(0));
    const failed = (code: number, reason: string) => {
      if (attempt === this._current) return this._onClosed(attempt, code, reason);
      this._good();
    };
    this._open(attempt, token, this._synchronizer.position(), failed, () => {
      this._drop(this._current);
      this._current = attempt;
      this._upgrade = null;
      this._level = this._upgrades = 0;
      this._synchronizer.opened();
    });
  }
}
