// A client of one's own on mobync/transport: tsc must take it, and refuse what is marked.

import { Backoff, MobyncError, MobyncTransport, newId, pause, retrying } from 'mobync/transport';

export async function follow(url: string, token: string, signal: AbortSignal): Promise<number> {
    const transport = new MobyncTransport({ url, token });
    const backoff = new Backoff(100, 5_000);
    let clock = 0;
    const body = { logical_clock: clock, diffs: [{ id: newId() }] };
    const reply: { logical_clock: number } = await retrying(
        () => transport.post('', body, signal),
        { signal, tries: 3, backoff },
    );
    clock = reply.logical_clock;
    const text: string = await transport.postForText('/watermelon/pull', { lastPulledAt: null });
    await pause(backoff.next(new MobyncError(text, { status: 503, retryAfterMs: 20 })), signal);
    await transport.listen((told) => (clock = told ?? clock), signal, { pollMs: 1_000, silenceMs: 9_000 });
    return clock;
}

export async function mistakes(transport: MobyncTransport, signal: AbortSignal): Promise<void> {
    // @ts-expect-error a clock may be null
    await transport.listen((clock) => clock.toFixed(), signal);
    // @ts-expect-error what listens must be able to end
    await transport.listen(() => undefined);
    // @ts-expect-error no url
    console.log(new MobyncTransport({ token: 'a' }));
    // @ts-expect-error it cannot be changed
    new MobyncError('no').status = 7;
}
