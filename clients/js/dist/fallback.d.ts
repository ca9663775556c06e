/** A connector that falls back to another transport if one fails, and returns to the best one when that works again. */
import { Connector } from "./connector.js";
export declare class FallbackConnector extends Connector {
    /** The attempt to connect by the best transport, beside the present connection. */
    private _upgrade?;
    private _upgrades;
    /** The moment of the next upgrade; 0 if none is planned. It stays if the present connection ends before. */
    private _upgradeAt;
    private _upgradeTimer;
    /**
     * Chooses the transport of the next attempt: the next one, without a delay if a proxy buffers this one. If a stream or
     * poll cannot reach the gateway at all, the best one.
     */
    protected _transportFailed(code: number, delay: number): number;
    /** Starts the timer of the next upgrade, unless the best transport is in use. */
    protected _planUpgrade(): void;
    protected _disconnect(): void;
    /** Opens the best transport beside the present connection, and replaces that when the first frame has arrived. */
    private _tryUpgrade;
}
