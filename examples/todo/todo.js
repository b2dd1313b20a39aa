// A to-do list that works offline.

import { waiting } from 'mobync/rxdb';

import { openTasks, replicate } from './database.js';

const MOST_EVENTS = 6;
const CAME_MS = 1600; // how long a task shows that another device changed it

const at = (id) => document.getElementById(id);
const device = new URLSearchParams(location.search).get('device') ?? '1';
const network = {
    get isOn() {
        return localStorage.getItem(`offline-${device}`) === null;
    },
    set isOn(on) {
        if (on) localStorage.removeItem(`offline-${device}`);
        else localStorage.setItem(`offline-${device}`, 'yes');
    },
    status: 200, // of the last answer; 0: none came
    answered(status) {
        this.status = status;
        showMarks();
    },
};

let unsent = new Set();
const came = new Map(); // id of a task -> the timer that ends its mark

const opening = openTasks(device);
at('add').addEventListener('submit', async (event) => {
    event.preventDefault(); // from the start: a browser would load the page again
    const name = at('name').value.trim();
    at('name').value = '';
    const task = { id: crypto.randomUUID(), name, done: false, created: Date.now() };
    if (name) (await opening).insert(task);
});
navigator.serviceWorker?.register('sw.js', { type: 'module' });
let signingIn = null; // while the user is asked for a token
let token = signedIn() ?? (await askedForToken());
const tasks = await opening;
const replication = await replicate(tasks, currentToken, network, (refused) =>
    refused.forEach(({ message }) => tell('!', `refused: ${message}`)),
);
if (!network.isOn) replication.pause();

tasks.find({ sort: [{ created: 'asc' }] }).$.subscribe(show);
tasks.$.subscribe(look);
replication.sent$.subscribe(({ name, _deleted }) => {
    tell('↑', _deleted ? `sent that “${name}” was removed` : `sent “${name}”`);
    look();
});
replication.received$.subscribe(({ id, name, _deleted }) => {
    tell('↓', _deleted ? `“${name}” was removed elsewhere` : `“${name}” came`);
    mark(id);
});
replication.conflict$.subscribe(({ output }) => {
    tell('↓', output._deleted ? `“${output.name}” was removed elsewhere` : `“${output.name}” was merged`);
    mark(output.id);
});
replication.active$.subscribe(look);
replication.startPromise.then(look);

at('online').checked = network.isOn;
at('online').addEventListener('change', ({ target }) => {
    network.isOn = target.checked;
    if (target.checked) replication.start();
    else replication.pause();
    tell(target.checked ? '●' : '○', target.checked ? 'online' : 'offline');
    look();
});
at('second').href = `?device=${Number(device) + 1}`;

/** Show the tasks. A task that is already shown keeps its element, and so the focus. */
function show(documents) {
    const list = at('tasks');
    const items = new Map([...list.children].map((item) => [item.dataset.id, item]));
    documents.forEach((task, place) => {
        const item = items.get(task.id) ?? made(task.id);
        items.delete(task.id);
        item.querySelector('.done').checked = task.done;
        item.querySelector('.done').setAttribute('aria-label', task.name);
        item.classList.toggle('is-done', task.done);
        const name = item.querySelector('.name');
        if (name !== document.activeElement) name.value = task.name;
        if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null);
    });
    items.forEach((item) => item.remove());
    at('empty').hidden = documents.length > 0;
    showMarks();
}

function made(id) {
    const item = at('task').content.firstElementChild.cloneNode(true);
    item.dataset.id = id;
    const change = async (edit) => edit(await tasks.findOne(id).exec());
    item.querySelector('.done').addEventListener('change', ({ target }) =>
        change((task) => task.incrementalPatch({ done: target.checked })),
    );
    item.querySelector('.name').addEventListener('change', ({ target }) =>
        change((task) => task.incrementalPatch({ name: target.value.trim() || task.name })),
    );
    item.querySelector('.name').addEventListener('keydown', ({ key, target }) => {
        if (key === 'Enter') target.blur();
    });
    item.querySelector('.remove').addEventListener('click', () =>
        change((task) => task.incrementalRemove()),
    );
    return item;
}

/** Find the edits that are not sent yet. */
async function look() {
    unsent = new Set(await waiting(replication));
    showMarks();
}

function showMarks() {
    for (const item of at('tasks').children) {
        item.classList.toggle('is-waiting', unsent.has(item.dataset.id));
        item.classList.toggle('has-come', came.has(item.dataset.id));
    }
    const on = network.isOn && navigator.onLine;
    const isAnswered = network.status >= 200 && network.status < 300;
    const trouble = network.status === 401 ? 'Not signed in' : 'Server not reached';
    const state = !on ? 'Offline' : isAnswered ? 'Online' : trouble;
    const none = state === 'Online' ? 'all synced' : 'nothing waits';
    at('state').textContent = `${state}, ${unsent.size > 0 ? `${unsent.size} waiting` : none}`;
    document.body.classList.toggle('is-offline', !on);
}

function mark(id) {
    clearTimeout(came.get(id));
    const end = () => {
        came.delete(id);
        showMarks();
    };
    came.set(id, setTimeout(end, CAME_MS));
    showMarks();
    look();
}

function tell(sign, text) {
    const line = document.createElement('li');
    line.dataset.sign = sign;
    line.textContent = text;
    at('events').prepend(line);
    while (at('events').children.length > MOST_EVENTS) at('events').lastChild.remove();
}

/** The token, from the link or from the last visit; null: there is none. */
function signedIn() {
    const given = location.hash.slice(1);
    if (given) {
        localStorage.setItem('token', given);
        history.replaceState(null, '', location.pathname + location.search);
    }
    return localStorage.getItem('token');
}

/** The token for a request; if the server refused the last one, the user is asked for another. */
async function currentToken({ isRefused }) {
    at('not-accepted').hidden = !isRefused;
    if (isRefused) token = await askedForToken();
    return token;
}

function askedForToken() {
    signingIn ??= new Promise((resolve) => {
        at('sign-in').addEventListener('close', resolve, { once: true });
        at('sign-in').showModal();
    }).then(() => {
        signingIn = null;
        localStorage.setItem('token', at('token').value.trim());
        return localStorage.getItem('token');
    });
    return signingIn;
}
