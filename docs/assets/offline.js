// Opened from the disk, browsers start no workers. This one runs its script in a hidden frame
// instead, which is all that the search of this site needs.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.documentElement.appendChild(this.frame);
      const inside = this.frame.contentWindow;
      // What a worker calls: scripts it loads one after the other, messages to its owner.
      inside.postMessageToOwner = (data) => this.tell(new MessageEvent("message", { data }));
      inside.postMessage = inside.postMessageToOwner;
      inside.importScripts = (...scripts) =>
        scripts.reduce((before, script) => before.then(() => this.load(script)), Promise.resolve());
      this.load(url).then(() => {
        this.ready = true;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
    }
    load(script) {
      const inside = this.frame.contentDocument;
      return new Promise((resolve, reject) => {
        const element = inside.createElement("script");
        element.src = script;
        element.onload = resolve;
        element.onerror = reject;
        inside.head.appendChild(element);
      });
    }
    tell(event) {
      this.dispatchEvent(event);
      if (this.onmessage) this.onmessage(event);
    }
    postMessage(data) {
      if (!this.ready) return void this.waiting.push(data);
      const inside = this.frame.contentWindow;
      inside.dispatchEvent(new inside.MessageEvent("message", { data }));
    }
    terminate() {
      this.frame.remove();
    }
  };
}
