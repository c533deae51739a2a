// Isolation for pages of hosts that send no headers of their own, such as static ones: with it a model computes on several
// threads. Put this file where the page is, or above, and into the page, before anything else:
//
//   <script src="isolate.js"></script>
//
// There it starts a service worker of itself, which adds the headers, and loads the page again the first time. A page
// where that cannot be done stays as it is.

if ("document" in globalThis) {
  const { serviceWorker } = navigator;
  const TRIED = "mynah isolation";
  if (!crossOriginIsolated && serviceWorker && !sessionStorage.getItem(TRIED)) {
    const { src } = document.currentScript;
    serviceWorker.register(src).then(async () => {
      await serviceWorker.ready;
      // Once: where it does not help, it does not help the second time either.
      sessionStorage.setItem(TRIED, "1");
      location.reload();
    }, (e) => console.info(`one thread: ${e.message}`));
  }
} else {
  addEventListener("install", () => skipWaiting());
  addEventListener("activate", (event) => event.waitUntil(clients.claim()));
  addEventListener("fetch", (event) => {
    const { request } = event;
    const own = new URL(request.url).origin === location.origin;
    // Pages and workers need them; everything else goes its way as it is.
    if (own && ["document", "iframe", "worker", "sharedworker"].includes(request.destination)) event.respondWith(isolated(request));
  });
}

async function isolated(request) {
  const response = await fetch(request);
  // The browser follows a redirection itself.
  if (response.type === "opaqueredirect") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
