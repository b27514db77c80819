"use strict";
// Search and filters of the documents. Texts are compared and shown or hidden, never made markup.
(() => {
  const find = document.getElementById("find");
  if (!find) return;
  const query = document.getElementById("query");
  const source = document.getElementById("source");
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  const groups = [...find.querySelectorAll("button[data-group]")];
  const documents = [...document.querySelectorAll("article[data-group]")].map((element) => ({
    element,
    group: element.dataset.group,
    source: element.dataset.source,
    words: element.textContent.toLowerCase(),
  }));
  let group = "";
  let all = false;
  const FEW = 6; // documents of each group that are shown before anything is asked for
  const everything = document.getElementById("all");

  const mark = (words) => {
    if (!window.CSS || !CSS.highlights) return;
    const ranges = [];
    for (const own of words.length ? documents : []) {
      if (own.element.hidden) continue;
      const walker = document.createTreeWalker(own.element, NodeFilter.SHOW_TEXT);
      for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        const text = node.data.toLowerCase();
        if (text.length !== node.data.length) continue; // places would not be those of the text
        for (const word of words) {
          for (let at = text.indexOf(word); at >= 0; at = text.indexOf(word, at + word.length)) {
            const range = new Range();
            range.setStart(node, at);
            range.setEnd(node, at + word.length);
            ranges.push(range);
          }
        }
      }
    }
    CSS.highlights.set("found", new Highlight(...ranges.slice(0, 2000)));
  };

  const update = () => {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    const few = !all && !group && !source.value && !words.length;
    const places = {};
    for (const own of documents) {
      places[own.group] = (places[own.group] || 0) + 1;
      const matches =
        (!few || places[own.group] <= FEW) &&
        (!group || own.group === group) &&
        (!source.value || own.source === source.value) &&
        words.every((word) => own.words.includes(word));
      own.element.hidden = !matches;
      count += matches;
    }
    for (const button of groups) {
      button.setAttribute("aria-pressed", String(button.dataset.group === group));
    }
    shown.textContent = `${count} of ${documents.length} documents`;
    none.hidden = count > 0;
    everything.hidden = !few || count === documents.length;
    mark(words);
  };

  everything.addEventListener("click", () => {
    all = true;
    update();
    document.getElementById("clear").focus({ preventScroll: true }); // this button is hidden now
  });
  query.addEventListener("input", update);
  source.addEventListener("change", update);
  for (const button of groups) {
    button.addEventListener("click", () => {
      group = button.dataset.group;
      update();
    });
  }
  for (const button of document.querySelectorAll("button[data-only]")) {
    button.disabled = ![...source.options].some((own) => own.value === button.dataset.only);
    button.addEventListener("click", () => {
      source.value = button.dataset.only;
      update();
      find.scrollIntoView();
      query.focus({ preventScroll: true });
    });
  }
  document.getElementById("clear").addEventListener("click", () => {
    query.value = source.value = group = "";
    update();
    query.focus();
  });
  for (const own of documents) {
    const text = own.element.querySelector(".text");
    const more = own.element.querySelector(".more");
    if (!more) continue;
    more.hidden = false;
    more.addEventListener("click", () => {
      const whole = text.classList.toggle("whole");
      more.setAttribute("aria-expanded", String(whole));
      more.textContent = whole ? "Show less" : "Show more";
    });
  }
  document.addEventListener("keydown", (event) => {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      query.focus();
    }
  });
  find.hidden = false;
  update();
})();
