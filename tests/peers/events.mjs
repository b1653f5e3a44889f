// The last events of one session, in the order they were sent: what a TypeScript server resumes streams from.
const EVENTS_KEPT_MAX = 1000;

export class Events {
  #kept = new Map();
  #next = 0;

  async storeEvent(stream, message) {
    const id = `${this.#next++}~${stream}`;
    this.#kept.set(id, { stream, message });
    if (this.#kept.size > EVENTS_KEPT_MAX) this.#kept.delete(this.#kept.keys().next().value);
    return id;
  }

  async getStreamIdForEventId(id) {
    return this.#kept.get(id)?.stream;
  }

  async replayEventsAfter(last, { send }) {
    const stream = this.#kept.get(last)?.stream ?? '';
    let seen = false;
    for (const [id, event] of [...this.#kept]) {
      // The event that opens a stream carries no message.
      if (seen && event.stream === stream && event.message.jsonrpc) await send(id, event.message);
      seen ||= id === last;
    }
    return stream;
  }
}
