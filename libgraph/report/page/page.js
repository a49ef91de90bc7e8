"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const DIM = 0.15, MOST_FOUND = 60, HOPS = 2, LISTED = 10, LABELLED = 26, MOST_LABELLED = 6, REST = 150;
  const NONE = "#b0b0b4";

  // Values as they are packed: base64 of little-endian numbers.
  const KINDS = { f4: Float32Array, i4: Int32Array, u1: Uint8Array, i1: Int8Array };
  function unpack(packed) {
    const [[kind, text]] = Object.entries(packed);
    const letters = atob(text), bytes = new Uint8Array(letters.length);
    for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
    return new KINDS[kind](bytes.buffer);
  }

  // Elements: everything that users name goes through textContent.
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "onclick") element.addEventListener("click", value);
      else if (name === "style") Object.assign(element.style, value);
      else if (value !== null && value !== undefined) element.setAttribute(name, value);
    }
    for (const child of children.flat()) if (child !== null) element.append(child);
    return element;
  }
  const percent = (x) => (x >= 0.0995 ? `${Math.round(100 * x)} %` : `${(100 * x).toFixed(1)} %`);
  const figure = (x) => (x === 0 ? "0" : Math.abs(x) >= 1e5 || Math.abs(x) < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4))));
  const first = (label) => label.split(" | ")[0];
  const whole = (x) => x.toLocaleString("en").replaceAll(",", "\u202f");

  class Basis {
    constructor(name, values) {
      this.name = name;
      this.layers = values.layers;
      this.labels = values.label;
      this.modules = values.modules;
      this.map = values.map;
      this.leftOut = values.left_out;
      this.ids = values.id;
      for (const key of ["feature", "x", "y", "size", "module", "share", "entering", "leaving"]) this[key] = unpack(values[key]);
      const edges = values.edges;
      this.source = unpack(edges.source);
      this.target = unpack(edges.target);
      this.weight = unpack(edges.weight);
      this.interaction = unpack(edges.interaction);
      this.kept = edges.kept;
      this.edgesLeftOut = edges.left_out;
      this.rows = this.feature.length;
      this.layer = new Int32Array(this.rows);
      this.layers.forEach((layer, place) => this.layer.fill(place, layer.first, layer.first + layer.size));
      this.rowOf = new Map();
      for (let row = 0; row < this.rows; row++) this.rowOf.set(this.id(row), row);
      this.into = this.grouped(this.target);
      this.from = this.grouped(this.source);
    }
    id(row) {
      return this.ids ? this.ids[row] : `${this.layers[this.layer[row]].name}/${this.feature[row]}`;
    }
    // Edges by one of their ends, those of each row together, strongest first.
    grouped(ends) {
      const start = new Int32Array(this.rows + 1), list = new Int32Array(ends.length);
      for (const row of ends) start[row + 1]++;
      for (let row = 0; row < this.rows; row++) start[row + 1] += start[row];
      const next = start.slice();
      for (let edge = 0; edge < ends.length; edge++) list[next[ends[edge]]++] = edge;
      return { start, list };
    }
    edgesOf(side, row) {
      const { start, list } = this[side];
      return list.subarray(start[row], start[row + 1]);
    }
    strongest(side, row, most) {
      return Array.from(this.edgesOf(side, row)).sort((a, b) => this.interaction[b] - this.interaction[a]).slice(0, most);
    }
    colour(module) {
      return module < 0 || !this.modules[module] ? NONE : this.modules[module].colour;
    }
    moduleName(number) {
      if (number < 0) return "no module";
      const module = this.modules[number];
      return `module ${number}${module && module.concept ? `: ${data.concept} ${module.concept}` : ""}`;
    }
  }

  // Where processors only play at being a graphics card, drawing on a canvas is faster by far.
  function hasGraphicsCard() {
    const gl = document.createElement("canvas").getContext("webgl");
    if (!gl) return false;
    const known = gl.getExtension("WEBGL_debug_renderer_info");
    const name = String(gl.getParameter(known ? known.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    return !/swiftshader|llvmpipe|softpipe|software|basic render/i.test(name);
  }
  const backend = hasGraphicsCard() ? "webgl" : "canvas";

  // A figure of Bokeh, and its parts by name.
  class Plot {
    async open(item, element) {
      element.id = item.target_id;
      item.doc.roots[0].attributes.output_backend = backend;
      this.views = await Bokeh.embed.embed_item(item, element.id);
      this.document = Bokeh.documents.find((doc) => doc.roots().some((root) => root.id === item.root_id));
      this.model = this.document.roots()[0];
      this.element = element;
      return this;
    }
    get(name) {
      return this.document.get_model_by_name(name);
    }
    onTap(renderer, act) {
      const selected = renderer.data_source.selected;
      selected.properties.indices.change.connect(() => {
        if (!this.quiet) act(selected.indices);
      });
    }
    pick(renderer, indices) {
      this.quiet = true;
      renderer.data_source.selected.indices = indices;
      this.quiet = false;
    }
    recolour(ink, line, ground) {
      const m = this.model;
      for (const part of m.renderers.filter((renderer) => renderer.name && renderer.name.endsWith("-veil"))) part.glyph.fill_color = { value: ground };
      for (const axis of [...m.below, ...m.left].filter((part) => "major_label_text_color" in part)) axis.major_label_text_color = ink;
      for (const grid of m.center.filter((part) => "grid_line_color" in part)) grid.grid_line_color = line;
      for (const part of m.renderers.filter((renderer) => renderer.name && /-labels$/.test(renderer.name))) part.glyph.text_color = { value: ink };
      for (const legend of m.center.filter((part) => "label_text_color" in part)) {
        legend.label_text_color = ink;
        legend.background_fill_alpha = 0;
        legend.border_line_color = null;
      }
    }
    view() {
      const roots = this.views.roots || [...this.views];
      return roots[0];
    }
    // Where a point of the data is on the screen.
    pixel(x, y) {
      const frame = this.view().frame, box = this.view().canvas_view.el.getBoundingClientRect();
      return [box.left + frame.x_scale.compute(x), box.top + frame.y_scale.compute(y)];
    }
  }

  const broad = (weight, most) => (weight > 0.6 * most ? 2 : weight > 0.25 * most ? 1 : 0);

  class GraphPlot extends Plot {
    constructor(basis, groups) {
      super();
      this.basis = basis;
      this.grey = groups;
      this.count = -1;
    }
    prepare() {
      const b = this.basis, sizes = new Map(), of = new Int32Array(b.kept);
      const most = b.kept ? b.weight[0] : 1;
      for (let edge = 0; edge < b.kept; edge++) {
        const module = b.module[b.source[edge]];
        const colour = module >= 0 && module < this.grey && module === b.module[b.target[edge]] ? module : this.grey;
        of[edge] = 3 * colour + broad(b.weight[edge], most);
        sizes.set(of[edge], (sizes.get(of[edge]) || 0) + 1);
      }
      this.groups = new Map();
      for (const [group, size] of sizes) {
        this.groups.set(group, {
          edges: new Int32Array(size), x: new Float64Array(3 * size), y: new Float64Array(3 * size), length: 0, drawn: -1,
          renderer: this.get(`${b.name}-edges-${Math.floor(group / 3)}-${group % 3}`),
        });
      }
      for (let edge = 0; edge < b.kept; edge++) {
        const group = this.groups.get(of[edge]), at = 3 * group.length;
        this.write(group.x, group.y, at, edge);
        group.edges[group.length++] = edge;
      }
      this.nodes = this.get(`${b.name}-nodes`);
      this.ring = this.get(`${b.name}-ring`);
      const colour = new Array(b.rows), name = new Array(b.rows), about = new Array(b.rows);
      for (let row = 0; row < b.rows; row++) {
        colour[row] = b.colour(b.module[row]);
        name[row] = b.id(row);
        about[row] = b.moduleName(b.module[row]) + (b.share[row] >= 0 ? `, ${percent(b.share[row])} of its layer` : "");
      }
      this.columns = { x: b.x, y: b.y, size: b.size, colour, name, label: b.labels, about };
      this.nodes.data_source.data = this.columns;
      for (const part of ["bright", "veil"]) this[part] = this.get(`${b.name}-${part}`);
      this.label();
      if (b.rows > data.dotted) this.dot();
    }
    // Thousands of features are drawn as round ends of lines, those with an edge that is shown; their
    // columns are lines, and the nodes are there to be pointed at.
    dot() {
      const b = this.basis, count = b.layers.length, rank = new Int32Array(b.rows).fill(b.kept);
      for (let edge = b.kept - 1; edge >= 0; edge--) rank[b.source[edge]] = rank[b.target[edge]] = edge;
      const rows = Int32Array.from(rank.keys()).filter((row) => rank[row] < b.kept).sort((p, q) => rank[p] - rank[q]);
      for (const row of rows) {
        const module = b.module[row], colour = module >= 0 && module < this.grey ? module : this.grey;
        const name = `${b.name}-dots-${colour}-${b.size[row] < 4.5 ? 0 : b.size[row] < 8 ? 1 : 2}`;
        if (!this.groups.has(name)) this.groups.set(name, { edges: [], x: [], y: [], length: 0, drawn: -1, renderer: this.get(name) });
        const group = this.groups.get(name);
        group.edges.push(rank[row]);
        group.x.push(b.x[row], b.x[row] + 1e-4, NaN);
        group.y.push(b.y[row], b.y[row], NaN);
        group.length++;
      }
      for (const group of this.groups.values()) for (const axis of ["x", "y"]) group[axis] = Float64Array.from(group[axis]);
      // Those alone can be pointed at that have an edge: as many are looked at when all is drawn.
      this.order = rows;
      this.place = new Map(Array.from(rows, (row, place) => [row, place]));
      this.ranks = rows.map((row) => rank[row]);
      this.columns = Object.fromEntries(Object.entries(this.columns).map(([key, values]) => [key, Array.from(rows, (row) => values[row])]));
      this.nodes.glyph.fill_color = null;
      const places = [...Array(count).keys()];
      this.get(`${b.name}-columns`).data_source.data = { x: places.flatMap((p) => [p, p, NaN]), y: places.flatMap(() => [0, 1, NaN]) };
    }
    // Labels beside features, where a column has room for them.
    label() {
      const b = this.basis, x = [], y = [], text = [];
      this.labelled = new Map();
      for (const layer of b.layers) {
        const joined = [];
        for (let row = layer.first; row < layer.first + layer.size; row++) if (b.edgesOf("into", row).some((e) => e < b.kept) || b.edgesOf("from", row).some((e) => e < b.kept)) joined.push(row);
        if (this.element.clientWidth / b.layers.length < 150 || b.layers.length > MOST_LABELLED || joined.length > LABELLED || !joined.length) continue;
        for (const row of joined) {
          x.push(b.x[row]);
          y.push(b.y[row]);
          const words = first(b.labels[row]);
          text.push(words.length > 26 ? `${words.slice(0, 25)}…` : words);
          this.labelled.set(row, text[text.length - 1]);
        }
      }
      this.get(`${b.name}-labels`).data_source.data = { x, y, text };
    }
    write(x, y, at, edge) {
      const b = this.basis, i = b.source[edge], j = b.target[edge];
      x[at] = b.x[i]; x[at + 1] = b.x[j]; x[at + 2] = NaN;
      y[at] = b.y[i]; y[at + 1] = b.y[j]; y[at + 2] = NaN;
    }
    // How many of these edges are among the strongest that are shown.
    below(edges, length) {
      let low = 0, high = length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (edges[middle] < this.count) low = middle + 1; else high = middle;
      }
      return low;
    }
    pointable() {
      if (!this.order) return;
      clearTimeout(this.resting);
      const shown = this.below(this.ranks, this.order.length);
      if (shown === this.pointed) return;
      this.pointed = shown;
      this.nodes.data_source.data = Object.fromEntries(Object.entries(this.columns).map(([key, values]) => [key, values.slice(0, shown)]));
    }
    // The strongest edges, so many.
    show(count) {
      this.count = count;
      // What can be pointed at is indexed by place, which takes as long as drawing: once the slider rests.
      clearTimeout(this.resting);
      if (this.order) this.resting = setTimeout(() => this.pointable(), REST);
      for (const group of this.groups.values()) {
        const low = this.below(group.edges, group.length);
        if (low === group.drawn) continue;
        group.drawn = low;
        group.renderer.data_source.data = { x: group.x.subarray(0, 3 * low), y: group.y.subarray(0, 3 * low) };
      }
    }
    // Rows and edges in full colour, the rest dimmed; nothing lit: all as ever.
    light(lit) {
      const b = this.basis;
      this.pointable();
      const rows = lit ? [...lit.rows] : [], named = rows.filter((row) => this.labelled.has(row));
      const of = (list, what) => list.map((row) => what[row]);
      this.veil.visible = Boolean(lit);
      this.bright.data_source.data = { x: of(rows, b.x), y: of(rows, b.y), size: rows.map((row) => b.size[row] + 2), colour: rows.map((row) => b.colour(b.module[row])) };
      this.get(`${b.name}-bright-labels`).data_source.data = { x: of(named, b.x), y: of(named, b.y), text: named.map((row) => this.labelled.get(row)) };
      const most = b.kept ? b.weight[0] : 1;
      for (const side of ["in", "out"]) {
        const edges = lit ? lit[side] : [], parts = [[], [], []];
        for (const edge of edges) parts[broad(b.weight[edge], most)].push(edge);
        parts.forEach((part, width) => {
          const x = new Float64Array(3 * part.length), y = new Float64Array(3 * part.length);
          part.forEach((edge, place) => this.write(x, y, 3 * place, edge));
          this.get(`${b.name}-lit-${side}-${width}`).data_source.data = { x, y };
        });
      }
      const row = lit && lit.row !== undefined ? [lit.row] : [];
      this.ring.data_source.data = { x: row.map((r) => b.x[r]), y: row.map((r) => b.y[r]) };
      this.pick(this.nodes, this.order ? row.map((r) => this.place.get(r)).filter((place) => place < this.nodes.data_source.data.x.length) : row);
    }
    row(index) {
      return this.order ? this.order[index] : index;
    }
    // Edges through a feature: all of its own among those shown, and the strongest that go on.
    through(row) {
      const b = this.basis, rows = new Set([row]), lit = { row, rows, in: [], out: [] };
      for (const [side, list, end] of [["into", lit.in, b.source], ["from", lit.out, b.target]]) {
        const seen = new Set();
        let front = [row], most = Infinity;
        while (front.length) {
          const next = [];
          for (const here of front) {
            let taken = 0;
            for (const edge of b.edgesOf(side, here)) {
              if (edge >= this.count || taken++ >= most) break;
              list.push(edge);
              rows.add(end[edge]);
              if (!seen.has(end[edge])) { seen.add(end[edge]); next.push(end[edge]); }
            }
          }
          most = HOPS;
          front = next;
        }
      }
      return lit;
    }
    members(module) {
      const b = this.basis, lit = { rows: new Set(), in: [], out: [] };
      for (let row = 0; row < b.rows; row++) if (b.module[row] === module) lit.rows.add(row);
      for (let edge = 0; edge < Math.min(this.count, b.kept); edge++) if (lit.rows.has(b.source[edge]) && lit.rows.has(b.target[edge])) lit.in.push(edge);
      return lit;
    }
  }

  class MapPlot extends Plot {
    constructor(basis) {
      super();
      this.basis = basis;
    }
    prepare() {
      const b = this.basis, map = b.map, groups = new Map();
      const y = (module) => -(module < map.rows.length - 1 && module >= 0 ? module : map.rows.length - 1);
      for (const [place, from, to, share] of map.flows) {
        const name = `${b.name}-flow-${from === to && from < map.groups ? from : map.groups}-${share > 0.25 ? 2 : share > 0.06 ? 1 : 0}`;
        if (!groups.has(name)) groups.set(name, { x: [], y: [] });
        const group = groups.get(name);
        group.x.push(map.places[place], map.places[place + 1], NaN);
        group.y.push(y(from), y(to), NaN);
      }
      for (const [name, group] of groups) this.get(name).data_source.data = group;
      this.cells = this.get(`${b.name}-cells`);
      const columns = { x: [], y: [], size: [], colour: [], alpha: [], name: [], about: [] };
      this.modules = [];
      for (const [place, module, share] of map.cells) {
        const number = module < map.rows.length - 1 ? module : -1;
        this.modules.push(number);
        columns.x.push(map.places[place]);
        columns.y.push(y(module));
        columns.size.push(4 + Math.min(30, Math.max(14, 900 / map.rows.length)) * Math.sqrt(share));
        columns.colour.push(number < 0 ? NONE : b.colour(module));
        columns.alpha.push(0.95);
        columns.name.push(`${map.rows[-y(module)]}, ${b.layers[map.places[place]].name}`);
        columns.about.push(`${percent(share)} of the importance there`);
      }
      this.cells.data_source.data = columns;
    }
    light(module) {
      const source = this.cells.data_source, alpha = this.modules.map((number) => (module === null || number === module ? 0.95 : DIM));
      source.data = { ...source.data, alpha };
      this.pick(this.cells, []);
    }
  }

  // The state of the page, and the figures.
  const bases = {}, plots = {}, maps = {}, counts = {}, frames = {};
  const state = { basis: data.main, selected: null, view: data.view };
  for (const [name, values] of Object.entries(data.bases)) bases[name] = new Basis(name, values);
  const examples = data.examples && { ...data.examples, numbers: unpack(data.examples.numbers), layers: {} };
  if (examples) {
    for (const [name, layer] of Object.entries(data.examples.layers)) {
      examples.layers[name] = Object.fromEntries(Object.entries(layer).map(([key, value]) => [key, typeof value === "object" ? unpack(value) : value]));
    }
    if (examples.strip) document.head.append(make("style", {}, `.thumb i { background-image: url(${examples.strip.url}); }`));
  }

  async function opened(kind, name) {
    const key = `${kind} ${name}`;
    if (frames[key]) return frames[key];
    const inner = make("div"), title = Object.keys(bases).length > 1 ? name.toUpperCase() : "";
    const what = kind === "graph" ? `Features of ${name} in columns, joined by their interactions` : `Modules of ${name} by node layers`;
    const frame = make("div", { class: "plot", role: "group", "aria-label": what }, make("h3", {}, title), inner);
    frames[key] = frame;
    $("plots").append(frame);
    const basis = bases[name], plot = kind === "graph" ? new GraphPlot(basis, data.coloured) : new MapPlot(basis);
    await plot.open(data.figures[`${name}-${kind}`], inner);
    plot.prepare();
    (kind === "graph" ? plots : maps)[name] = plot;
    if (kind === "graph") {
      plot.show(counts[name]);
      plot.onTap(plot.nodes, (rows) => (rows.length ? go({ basis: name, row: nearest(basis, rows.map((index) => plot.row(index))) }) : go(null)));
    } else {
      plot.onTap(plot.cells, (cells) => { if (cells.length && plot.modules[cells[0]] >= 0) go({ basis: name, module: plot.modules[cells[0]] }); });
    }
    colours();
    return frame;
  }
  // Of features that lie upon each other, the largest.
  const nearest = (basis, rows) => rows.reduce((a, b) => (basis.size[b] > basis.size[a] ? b : a));

  function chosenBases() {
    const pressed = [...$("bases").querySelectorAll("[aria-pressed=true]")].map((button) => button.value);
    return pressed.length ? pressed : [data.main];
  }
  async function arrange() {
    const wanted = new Set();
    for (const name of chosenBases()) {
      const kind = state.view === "map" && bases[name].map ? "map" : "graph";
      wanted.add(await opened(kind, name));
    }
    for (const frame of Object.values(frames)) frame.hidden = !wanted.has(frame);
    for (const button of $("views").children) button.setAttribute("aria-pressed", button.value === state.view);
    slide();
    lighten();
  }

  // Selection: a feature, a module or nothing; in the address, so that there are links to it.
  function address(selected) {
    if (!selected) return "";
    const prefix = selected.basis === data.main ? "" : `${selected.basis}:`;
    return prefix + (selected.row === undefined ? `module:${selected.module}` : bases[selected.basis].id(selected.row));
  }
  function addressed(text) {
    for (const name of [data.main, ...Object.keys(bases)]) {
      const rest = name === data.main ? text : text.startsWith(`${name}:`) ? text.slice(name.length + 1) : null;
      if (rest === null) continue;
      const row = bases[name].rowOf.get(rest), module = /^module:(\d+)$/.exec(rest);
      if (row !== undefined) return { basis: name, row };
      if (module && Number(module[1]) < bases[name].modules.length) return { basis: name, module: Number(module[1]) };
      if (name !== data.main) break;
    }
    return null;
  }
  const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
  function go(selected) {
    if (same(selected, state.selected)) return;
    state.selected = selected;
    const hash = selected ? `#${encodeURI(address(selected)).replaceAll("#", "%23")}` : "#";
    if (location.hash !== hash && !(hash === "#" && !location.hash)) history.pushState(null, "", hash);
    if (selected && !chosenBases().includes(selected.basis)) {
      $("bases").querySelector(`[value="${CSS.escape(selected.basis)}"]`).setAttribute("aria-pressed", "true");
      arrange();
    }
    lighten();
    describe();
  }
  function fromAddress() {
    let text = location.hash.slice(1);
    try { text = decodeURIComponent(text); } catch { /* as it stands */ }
    if (text === "panel") return;
    const found = addressed(text);
    if (text && !found) $("said").textContent = `There is no feature '${text}' on this page.`;
    go(found);
  }
  function lighten() {
    const s = state.selected;
    for (const [name, plot] of Object.entries(plots)) {
      const mine = s && s.basis === name;
      plot.light(mine ? (s.row !== undefined ? plot.through(s.row) : plot.members(s.module)) : null);
    }
    for (const [name, map] of Object.entries(maps)) {
      const module = !s || s.basis !== name ? null : s.row !== undefined ? bases[name].module[s.row] : s.module;
      map.light(module);
    }
  }

  // The slider counts in powers, because a graph of ten edges and one of ten thousand are as far apart as that of ten million.
  const current = () => bases[state.selected ? state.selected.basis : chosenBases()[0]];
  const edgesAt = (position, kept) => (kept === 0 ? 0 : Math.round(kept ** (position / 1000)));
  const positionOf = (count, kept) => (kept > 1 ? Math.round(1000 * Math.log(Math.max(count, 1)) / Math.log(kept)) : 1000);
  function slide() {
    const b = current(), count = counts[b.name];
    $("count").value = positionOf(count, b.kept);
    $("shown").textContent = `${whole(count)} of ${whole(b.kept)}`;
    $("count").setAttribute("aria-valuetext", `${count} strongest edges of ${b.kept}`);
  }
  $("count").addEventListener("input", () => {
    const position = Number($("count").value);
    for (const name of chosenBases()) {
      counts[name] = edgesAt(position, bases[name].kept);
      if (plots[name]) plots[name].show(counts[name]);
    }
    slide();
    if (state.selected) lighten();
  });

  // What is selected, in words.
  function describe() {
    const panel = $("panel"), s = state.selected;
    panel.replaceChildren(...(!s ? overview() : s.row !== undefined ? aboutFeature(bases[s.basis], s.row) : aboutModule(bases[s.basis], s.module)));
    panel.scrollTop = 0;
  }
  function overview() {
    const b = current();
    const parts = [make("h2", {}, "Nothing selected"), make("p", {}, "Click a feature to see what feeds it, what it is and where it leads; or choose a module.")];
    if (b.leftOut || b.edgesLeftOut) parts.push(make("p", {}, `The page shows the strongest ${whole(b.rows)} features and ${whole(b.kept)} edges: ${whole(b.leftOut)} features and ${whole(b.edgesLeftOut)} edges are in the files of the run alone.`));
    if (b.modules.length) parts.push(make("h3", {}, `Modules of ${b.name.toUpperCase()}`), make("ul", { class: "members" }, b.modules.slice(0, 100).map((module, number) => make("li", {}, moduleButton(b, number), make("small", {}, ` ${module.size} features`)))));
    return parts;
  }
  function moduleButton(b, number) {
    const dot = make("span", { class: "dot", style: { background: b.colour(number) } });
    return number < 0 ? make("span", {}, dot, "no module") : make("button", { type: "button", onclick: () => go({ basis: b.name, module: number }) }, dot, b.moduleName(number));
  }
  function featureButton(b, row) {
    return make("button", { type: "button", "data-feature": b.id(row), onclick: () => go({ basis: b.name, row }) }, make("span", { class: "dot", style: { background: b.colour(b.module[row]) } }), b.id(row));
  }
  function links(b, row, side) {
    const end = side === "into" ? b.source : b.target, total = (side === "into" ? b.entering : b.leaving)[row];
    const edges = b.strongest(side, row, LISTED);
    if (!edges.length) return [make("p", { class: "faint" }, "none")];
    return [make("ol", { class: "links", "data-side": side }, edges.map((edge) => make("li", edge < b.kept ? {} : { class: "under", title: "below ε: not drawn" },
      make("span", { class: "part" }, percent(total > 0 ? b.interaction[edge] / total : 0)),
      make("span", {}, featureButton(b, end[edge]), make("small", { title: b.labels[end[edge]] }, first(b.labels[end[edge]]))))))];
  }
  function ablated(layer, index) {
    const numbers = Object.keys(layer.curve).map(Number).sort((a, c) => a - c);
    const after = numbers.find((n) => n > index), before = numbers.filter((n) => n <= index).pop();
    if (after === undefined || before === undefined) return null;
    return `${data.score.name} ${figure(layer.curve[after])} with the first ${after} features of its layer, ${figure(layer.curve[before])} with ${before}.`;
  }
  function aboutFeature(b, row) {
    const layer = b.layers[b.layer[row]], index = b.feature[row], stored = b.name === data.main && examples ? examples.layers[layer.name] : null;
    const parts = [make("h2", {}, b.id(row), make("small", {}, `  ${b.name.toUpperCase()}`)), make("p", { class: "label" }, b.labels[row] || "no label"), make("p", {}, moduleButton(b, b.module[row]))];
    const facts = [];
    if (index < layer.isolated) facts.push("Interacts with everything, and is left out of lists and modules.");
    if (b.share[row] >= 0) facts.push(`${percent(b.share[row])} of the importance of ${layer.name}.`);
    if (stored && stored.position_share && index >= layer.isolated) facts.push(`${percent(stored.position_share[index])} of its variance is its position.`);
    const scores = ablated(layer, index);
    if (scores) facts.push(scores);
    const alone = b.name === data.main && data.lesions && data.lesions.features[layer.name] ? data.lesions.features[layer.name][index] : null;
    if (alone !== null) facts.push(`${data.score.name} ${figure(alone)} without it alone, ${figure(data.lesions.score)} with all.`);
    parts.push(...facts.map((fact) => make("p", {}, fact)));
    parts.push(make("h3", {}, "Fed by"), ...links(b, row, "into"), make("h3", {}, "Feeds"), ...links(b, row, "from"));
    if (index < layer.isolated) return parts;
    if (stored && stored.outputs) {
      const moved = [];
      for (let o = 0; o < stored.moved; o++) {
        const at = index * stored.moved + o;
        moved.push(make("li", {}, make("span", { class: "value" }, `${stored.effects[at] >= 0 ? "+" : "−"}${figure(Math.abs(stored.effects[at]))}`), examples.outputs[stored.outputs[at]]));
      }
      parts.push(make("h3", {}, "Outputs it moves most, by one deviation"), make("ul", { class: "examples" }, moved));
    }
    if (stored && stored.means) parts.push(make("h3", {}, "Mean at each position"), spark(stored.means.subarray(index * stored.length, (index + 1) * stored.length)));
    if (stored) parts.push(make("h3", {}, `Examples, of ${whole(examples.pool)} samples`), ...shownExamples(stored, index));
    else if (b.name === data.main && !examples && data.score) parts.push(make("h3", {}, "Examples"), make("p", { class: "faint" }, data.no_examples));
    return parts;
  }
  function spark(values) {
    const SVG = "http://www.w3.org/2000/svg", svg = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
    const low = Math.min(0, ...values), high = Math.max(0, ...values), span = high - low || 1;
    svg.setAttribute("viewBox", `0 0 ${Math.max(values.length - 1, 1)} 1`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "spark");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `from ${figure(values[0])} at the first position to ${figure(values[values.length - 1])} at the last`);
    line.setAttribute("points", Array.from(values, (v, i) => `${i},${0.03 + 0.94 * (high - v) / span}`).join(" "));
    svg.append(line);
    return svg;
  }
  const SIGNS = { up: "▲", down: "▼", ordinary: "·" };
  function shownExamples(stored, index) {
    const count = examples.kinds.length, rows = [];
    for (let e = 0; e < count; e++) {
      const at = index * count + e, sample = stored.samples[at];
      const one = { kind: examples.kinds[e], sample, position: stored.positions[at], value: stored.values[at], start: stored.starts[at], shades: stored.shades.subarray(at * stored.width, (at + 1) * stored.width) };
      rows.push(examples.strip ? thumb(stored, one) : line(stored, one));
    }
    return [examples.strip ? make("div", { class: "thumbs" }, rows) : make("ul", { class: "examples" }, rows)];
  }
  function thumb(stored, one) {
    const strip = examples.strip, SIDE = 56, column = one.sample % strip.columns, row = Math.floor(one.sample / strip.columns);
    const picture = make("i", { style: { backgroundSize: `${SIDE * strip.columns}px ${SIDE * strip.rows}px`, backgroundPosition: `${-SIDE * column}px ${-SIDE * row}px` } });
    const rows = Math.round(Math.sqrt(stored.length * strip.height / strip.width)), columns = stored.length / Math.max(rows, 1);
    if (stored.length > 1 && Number.isInteger(columns)) {
      const y = Math.floor(one.position / columns), x = one.position % columns;
      picture.append(make("b", { style: { left: `${100 * x / columns}%`, top: `${100 * y / rows}%`, width: `${100 / columns}%`, height: `${100 / rows}%` } }));
    }
    return make("span", { class: "thumb", title: `sample ${examples.numbers[one.sample]}, position ${one.position}` }, picture, `${SIGNS[one.kind]} ${figure(one.value)}`);
  }
  function line(stored, one) {
    const value = make("span", { class: "value" }, `${SIGNS[one.kind]} ${figure(one.value)}`);
    const texts = examples.texts[one.sample];
    if (!texts) return make("li", {}, value, `sample ${examples.numbers[one.sample]}${stored.length > 1 ? `, position ${one.position}` : ""}`);
    const offset = Math.max(texts.length - stored.length, 0), all = texts.length <= 24;
    const begin = all ? 0 : offset + one.start, end = all ? texts.length : begin + stored.width, tokens = [];
    for (let place = begin; place < end; place++) {
      const position = place - offset, shade = one.shades[position - one.start] || 0;
      const colour = shade > 0 ? `rgba(224, 100, 46, ${shade / 170})` : shade < 0 ? `rgba(31, 120, 214, ${-shade / 170})` : "transparent";
      tokens.push(make(position === one.position && texts.length > 1 ? "b" : "span", { style: { background: colour } }, texts[place]));
    }
    return make("li", { title: `sample ${examples.numbers[one.sample]}, position ${one.position}` }, value, make("span", { class: "tokens" }, tokens));
  }
  function aboutModule(b, number) {
    const module = b.modules[number], parts = [make("h2", {}, `Module ${number}`, make("small", {}, `  ${b.name.toUpperCase()}`))];
    if (module.concept !== null) parts.push(make("p", { class: "label" }, `${data.concept} ${module.concept}: ${percent(module.share)} of its features' variance`));
    parts.push(make("p", {}, `${module.size} features`));
    const lesion = b.name === data.main && data.lesions ? data.lesions.modules[number] : null;
    if (lesion) parts.push(make("p", {}, `${data.score.name} ${figure(lesion.score)} without it, ${figure(data.lesions.score)} with all; random sets of its size lose as much with p = ${lesion.p.toFixed(2)}.`));
    if (state.view === "map") parts.push(make("p", {}, make("button", { type: "button", onclick: () => view("features") }, "Show its features")));
    const into = new Map(), out = new Map();
    let inside = 0;
    for (let edge = 0; edge < b.kept; edge++) {
      const from = b.module[b.source[edge]], to = b.module[b.target[edge]];
      if (from === number && to === number) inside += b.weight[edge];
      else if (from === number) out.set(to, (out.get(to) || 0) + b.weight[edge]);
      else if (to === number) into.set(from, (into.get(from) || 0) + b.weight[edge]);
    }
    const flows = (map) => make("ol", { class: "links" }, [...map].sort((p, q) => q[1] - p[1]).slice(0, LISTED).map(([other, weight]) => make("li", {}, make("span", { class: "part" }, figure(weight)), make("span", {}, moduleButton(b, other)))));
    parts.push(make("p", {}, `Weight of edges inside: ${figure(inside)}`));
    parts.push(make("h3", {}, "Flow in"), flows(into), make("h3", {}, "Flow out"), flows(out), make("h3", {}, "Features"));
    const list = make("ul", { class: "members" });
    const members = [];
    for (let row = 0; row < b.rows; row++) if (b.module[row] === number) members.push(row);
    for (const layer of b.layers) {
      const mine = members.filter((row) => b.layers[b.layer[row]] === layer);
      for (const row of mine.slice(0, 12)) list.append(make("li", {}, featureButton(b, row), make("small", {}, ` ${first(b.labels[row])}`)));
      if (mine.length > 12) list.append(make("li", { class: "faint" }, `and ${mine.length - 12} more of ${layer.name}`));
    }
    parts.push(list);
    return parts;
  }

  // Search.
  function find(text) {
    const wanted = text.trim().toLowerCase(), list = $("found"), b = current();
    list.replaceChildren();
    list.hidden = !wanted;
    if (!wanted) { $("said").textContent = ""; return; }
    let count = 0;
    for (let row = 0; row < b.rows; row++) {
      const id = b.id(row);
      if (!id.toLowerCase().includes(wanted) && !b.labels[row].toLowerCase().includes(wanted)) continue;
      if (count++ < MOST_FOUND) list.append(make("li", {}, make("button", { type: "button", "data-feature": id, onclick: () => { list.hidden = true; go({ basis: b.name, row }); $("panel").focus(); } }, id, make("small", {}, `  ${b.labels[row].slice(0, 160)}`))));
    }
    $("said").textContent = `${whole(count)} features${count > MOST_FOUND ? `, the first ${MOST_FOUND} listed` : ""}.`;
  }
  $("search").addEventListener("input", () => find($("search").value));
  $("search").addEventListener("focus", () => { if ($("search").value) find($("search").value); });
  $("search").addEventListener("keydown", (event) => {
    const button = $("found").querySelector("button");
    if (event.key === "Enter" && button) button.click();
    if (event.key === "ArrowDown" && button) { event.preventDefault(); button.focus(); }
    if (event.key === "Escape") { $("search").value = ""; find(""); }
  });
  $("found").addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") { $("found").hidden = true; $("search").focus(); }
    if (!step) return;
    event.preventDefault();
    const buttons = [...$("found").querySelectorAll("button")], next = buttons[buttons.indexOf(document.activeElement) + step];
    (next || $("search")).focus();
  });
  document.addEventListener("click", (event) => { if (!event.target.closest(".search")) $("found").hidden = true; });

  // Keys.
  function along(key) {
    const s = state.selected;
    if (!s || s.row === undefined) return false;
    const b = bases[s.basis];
    if (key === "ArrowLeft" || key === "ArrowRight") {
      const [edge] = b.strongest(key === "ArrowLeft" ? "into" : "from", s.row, 1);
      if (edge !== undefined) go({ basis: b.name, row: (key === "ArrowLeft" ? b.source : b.target)[edge] });
      return true;
    }
    const layer = b.layers[b.layer[s.row]], column = [];
    for (let row = layer.first; row < layer.first + layer.size; row++) column.push(row);
    column.sort((p, q) => b.y[q] - b.y[p]);
    const next = column[column.indexOf(s.row) + (key === "ArrowUp" ? -1 : 1)];
    if (next !== undefined) go({ basis: b.name, row: next });
    return true;
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) || event.target.closest("#found")) return;
    if (event.key === "/") { event.preventDefault(); $("search").focus(); }
    else if (event.key === "Escape") go(null);
    else if (event.key.startsWith("Arrow") && along(event.key)) event.preventDefault();
  });

  // Views, bases, colours, curves.
  async function view(name) {
    state.view = name;
    await arrange();
    describe();
  }
  if (Object.values(bases).some((b) => b.map)) {
    for (const [name, text] of [["features", "Features"], ["map", "Map of modules"]]) $("views").append(make("button", { type: "button", value: name, onclick: () => view(name) }, text));
  }
  if (Object.keys(bases).length > 1) {
    for (const name of Object.keys(bases)) {
      $("bases").append(make("button", { type: "button", value: name, "aria-pressed": name === data.main, onclick: async (event) => {
        const button = event.currentTarget, others = chosenBases().filter((other) => other !== name);
        if (button.getAttribute("aria-pressed") === "true" && !others.length) return;
        button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
        await arrange();
        if (!state.selected) describe();
      } }, name.toUpperCase()));
    }
  }
  let curvePlot = null;
  function colours() {
    const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink").trim(), rule = style.getPropertyValue("--line").trim(), ground = style.getPropertyValue("--ground").trim();
    for (const plot of [...Object.values(plots), ...Object.values(maps), curvePlot]) if (plot) plot.recolour(ink, rule, ground);
  }
  const THEMES = ["auto", "dark", "light"];
  $("theme").addEventListener("click", () => {
    const root = document.documentElement, next = THEMES[(THEMES.indexOf(root.dataset.theme || "auto") + 1) % THEMES.length];
    root.dataset.theme = next;
    $("theme").textContent = `theme: ${next}`;
    colours();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colours);
  async function openCurves() {
    const kinds = Object.keys(data.curves);
    if (!kinds.length) return;
    $("curves-part").hidden = false;
    curvePlot = await new Plot().open(data.figures.curves, $("curve-frame").appendChild(make("div", { style: { height: "100%" } })));
    const options = (select, names) => select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
    const draw = () => {
      const curves = data.curves[$("curve-kind").value][$("curve-place").value] || {};
      for (const name of Object.keys(bases)) {
        const [x, y] = curves[name] || [[], []], log = $("curve-kind").value.startsWith("spectrum");
        for (const part of ["curve", "dots"]) curvePlot.get(`${part}-${name}`).data_source.data = { x, y: log ? y.map((v) => Math.log10(v)) : y };
      }
    };
    $("curve-kind").addEventListener("change", () => { options($("curve-place"), Object.keys(data.curves[$("curve-kind").value])); draw(); });
    $("curve-place").addEventListener("change", draw);
    options($("curve-kind"), kinds);
    options($("curve-place"), Object.keys(data.curves[kinds[0]]));
    draw();
    colours();
  }

  for (const b of Object.values(bases)) counts[b.name] = Math.min(b.kept, data.first_edges);
  describe();
  fromAddress();
  // A link to a feature shows it, where the page would otherwise open on the map.
  if (state.selected && state.selected.row !== undefined) state.view = "features";
  await arrange();
  describe();
  window.addEventListener("hashchange", fromAddress);
  window.addEventListener("popstate", fromAddress);
  await openCurves();
  window.libgraph = {
    select: (text) => go(addressed(text)),
    selected: () => address(state.selected),
    pixel: (text) => { const { basis, row } = addressed(text); return plots[basis].pixel(bases[basis].x[row], bases[basis].y[row]); },
    cell: (basis, number) => { const s = maps[basis].cells.data_source.data; return maps[basis].pixel(s.x[number], s.y[number]); },
  };
  document.documentElement.dataset.ready = "true";
})().catch((error) => {
  document.getElementById("said").textContent = `The page could not be drawn: ${error}`;
  throw error;
});
