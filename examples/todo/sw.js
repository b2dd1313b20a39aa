// Stores the app's own files, so that it opens without a network. RxDB stores the data.

const CACHE = 'todo';
const FILES = ['./', 'index.html', 'todo.js', 'style.css', 'icon.svg', 'manifest.json'];

self.addEventListener('install', (event) => {
    event.waitUntil(
        caches
            .open(CACHE)
            .then((cache) => cache.addAll(FILES))
            .then(() => self.skipWaiting()),
    );
});

self.addEventListener('activate', (event) => event.waitUntil(self.clients.claim()));

self.addEventListener('fetch', (event) => {
    const { request } = event;
    if (request.method === 'GET' && request.url.startsWith(self.registration.scope)) {
        event.respondWith(newest(request));
    }
});

/** The file from the server, or else the stored one. */
async function newest(request) {
    const cache = await caches.open(CACHE);
    try {
        const response = await fetch(request);
        if (response.ok) await cache.put(request, response.clone());
        return response;
    } catch (error) {
        const kept = await cache.match(request, { ignoreSearch: true });
        if (kept) return kept;
        throw error;
    }
}
