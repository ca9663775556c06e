/** A connector that falls back to another transport if one fails, and returns to the best one when that works again. */

import { type Attempt, Connector } from "./connector";
import { ABNORMAL, BUFFERED } from "./transports";

/** Delays before the client tries the best transport again: 10 s, 60 s, then always 240 s. */
const FIRST_UPGRADE_MS = 10_000;
const MAX_UPGRADE_MS = 240_000;

export class FallbackConnector extends Connector {
  /** The attempt to connect by the best transport, beside the present connection. */
  private _upgrade?: Attempt | null;
  private _upgrades = 0;
  /** The moment of the next upgrade; 0 if none is planned. It stays if the present connection ends before. */
  private _upgradeAt = 0;
  private _upgradeTimer: unknown;

  /**
   * Chooses the transport of the next attempt: the next one, without a delay if a proxy buffers this one. If a stream or
   * poll cannot reach the gateway at all, the best one.
   */
  protected override _transportFailed(code: number, delay: number): number {
    this._level = code !== ABNORMAL || !this._level ? (this._level + 1) % this._options.transports.length : 0;
    return code === BUFFERED && this._level ? 0 : delay;
  }

  /** Starts the timer of the next upgrade, unless the best transport is in use. */
  protected override _planUpgrade(): void {
    const { env } = this._options;
    env.stopTimer(this._upgradeTimer);
    if (this._level === 0) return;
    const now = env.monotonic();
    this._upgradeAt ||= now + Math.min(MAX_UPGRADE_MS, FIRST_UPGRADE_MS * 6 ** this._upgrades++);
    this._upgradeTimer = env.startTimer(() => this._tryUpgrade(), this._upgradeAt - now);
  }

  protected override _disconnect(): void {
    this._options.env.stopTimer(this._upgradeTimer);
    this._drop(this._upgrade);
    super._disconnect();
  }

  /** Opens the best transport beside the present connection, and replaces that when the first frame has arrived. */
  private async _tryUpgrade(): Promise<void> {
    this._upgradeAt = 0;
    const before = this._current;
    const token = await this.freshToken().catch(() => null);
    // The login may have changed since the last connection.
    if (!before || before.over || token === null || !this._events.identify(token)) return;
    const attempt = (this._upgrade = this._attempt(0));
    const failed = (code: number, reason: string) => {
      if (attempt === this._current) return this._onClosed(attempt, code, reason);
      this._planUpgrade();
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
