// A real server for the tests, and a proxy before it that can cut.
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { createServer, request as ask } from 'node:http';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const SERVER = fileURLToPath(new URL('../../../tests/javascript_server.py', import.meta.url));

export class Server {
    static async start(database = 'sqlite') {
        const python = process.env.PYTHON ?? 'python3';
        const server = new Server();
        server.process = spawn(python, [SERVER, database], { stdio: ['pipe', 'pipe', 'inherit'] });
        const lines = createInterface(server.process.stdout);
        server.next = () =>
            new Promise((resolve, reject) => {
                const ended = (code) => reject(new Error(`the server ended: ${code}`));
                server.process.once('exit', ended);
                lines.once('line', (line) => {
                    server.process.off('exit', ended);
                    resolve(JSON.parse(line));
                });
            });
        server.port = await server.next();
        server.rules = []; // functions of a path, that say what becomes of a request
        server.asked = []; // the paths of all requests
        server.devices = new Set(); // that asked; null: without a name
        server.proxy = createServer((from, to) => server.pass(from, to));
        server.proxy.keepAliveTimeout = 600_000; // a slow test's next request finds it open
        await new Promise((resolve) => server.proxy.listen(0, '127.0.0.1', resolve));
        server.url = `http://127.0.0.1:${server.proxy.address().port}/sync`;
        return server;
    }

    async stop() {
        this.proxy.closeAllConnections();
        this.proxy.close();
        this.process.stdin.end();
        await new Promise((resolve) => this.process.once('exit', resolve));
    }

    /** Have the server itself do something: a call of tests/javascript_server.py, one at a time. */
    call(...call) {
        const answer = this.next();
        this.process.stdin.write(`${JSON.stringify(call)}\n`);
        return answer;
    }

    /** Have the next request to a path be answered by a cut: before it arrives, or after. */
    cutNext(path, when = 'after') {
        this.rules.push((asked) => (asked.endsWith(path) ? when : null));
    }

    pass(from, to) {
        const [path, query] = from.url.split('?');
        this.asked.push(path);
        this.devices.add(new URLSearchParams(query).get('device'));
        const rule = this.rules[0]?.(path);
        if (rule) this.rules.shift();
        if (rule === 'before') return from.socket.destroy();
        if (typeof rule === 'number') {
            from.resume();
            from.once('end', () => to.writeHead(rule, { 'Retry-After': '0' }).end('{}'));
            return;
        }
        const { method, headers } = from;
        const target = { host: '127.0.0.1', port: this.port, path: from.url, method, headers };
        const passed = ask(target, (answer) => {
            if (rule === 'after' || typeof rule === 'function') {
                answer.resume();
                if (typeof rule === 'function') rule(); // and nobody is answered
                return answer.once('end', () => from.socket.destroy());
            }
            to.writeHead(answer.statusCode, answer.headers);
            answer.pipe(to);
            to.once('close', () => answer.destroy());
        });
        passed.on('error', () => to.destroy());
        // The server may answer before it has read a body that is too long.  Node resets a
        // connection that is answered so, so the body is read to its end before it is passed.
        const body = [];
        from.on('data', (piece) => body.push(piece));
        from.once('end', () => passed.end(Buffer.concat(body)));
    }

    /** An edit by another device of an owner, that speaks mobync's protocol. */
    async elsewhere(owner, type, model, row) {
        const head = await this.post(owner, { logical_clock: 0, diffs: [] });
        const diff = {
            id: randomUUID(),
            owner,
            logical_clock: 0,
            utc_timestamp: Date.now(),
            type,
            model,
            json_data: JSON.stringify(row),
        };
        await this.post(owner, { logical_clock: head.logical_clock, diffs: [diff] });
    }

    async post(owner, body) {
        const response = await fetch(`http://127.0.0.1:${this.port}/sync`, {
            method: 'POST',
            headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${owner}` },
            body: JSON.stringify(body),
        });
        if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
        return response.json();
    }

    /** The rows of a model, as a new device has them. */
    async rows(owner, model = 'tasks') {
        const { diffs } = await this.post(owner, { logical_clock: 0, diffs: [] });
        const rows = {};
        for (const diff of diffs.filter((each) => each.model === model)) {
            const row = JSON.parse(diff.json_data);
            if (diff.type === 'delete') delete rows[row.id];
            else rows[row.id] = { ...rows[row.id], ...row };
        }
        return rows;
    }
}
