// Browsers run no worker of a page that is opened from the disk, and the theme's search needs one. Here
// the worker's script runs in a hidden frame instead, as in the package iframe-worker, which the theme
// would fetch from the network.
if (location.protocol === "file:") {
  const load = (inner, url) =>
    new Promise((resolve, reject) => {
      const script = inner.document.createElement("script");
      Object.assign(script, { src: url, onload: resolve, onerror: reject });
      inner.document.body.appendChild(script);
    });

  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.appendChild(frame);
      this.inner = frame.contentWindow;
      this.inner.postMessage = (data) =>
        this.dispatchEvent(new MessageEvent("message", { data }));
      this.inner.importScripts = (...urls) =>
        urls.reduce((done, one) => done.then(() => load(this.inner, one)), Promise.resolve());
      this.started = load(this.inner, url);
    }

    postMessage(data) {
      this.started.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {}
  };
}
