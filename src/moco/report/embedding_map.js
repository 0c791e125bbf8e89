// The map of images: pointer, finger or arrow keys choose a dot; its picture and nearest images are
// shown beside it. Without this script the map is a still picture.
(() => {
  "use strict";
  const about = JSON.parse(document.getElementById("map-about").textContent);
  const find = (selector) => document.querySelector(`.map ${selector}`);
  const [field, dots, marks] = [find(".map-field"), find("canvas.dots"), find("canvas.marks")];
  const REACH = 24; // pixels from which a dot is taken

  function numbers(id, Kind) {
    const element = document.getElementById(id);
    if (!element) return null;
    const letters = atob(element.textContent);
    const bytes = new Uint8Array(letters.length);
    for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
    element.remove(); // what is unpacked need not be held twice
    return new Kind(bytes.buffer);
  }

  const planes = { pca: numbers("map-pca", Uint16Array), tsne: numbers("map-tsne", Uint16Array) };
  const near = { trained: numbers("map-near", Uint16Array), untrained: numbers("map-near-before", Uint16Array) };
  const cosines = numbers("map-cosines", Uint16Array);
  const classes = numbers("map-classes", Uint16Array);
  const names = unpackedNames();
  const sheets = about.sheets.map(() => null);
  const view = { x: 0.5, y: 0.5, span: 1.06 };
  let plane = planes.tsne || planes.pca;
  let [chosen, pointed, only] = [0, -1, -1];

  function unpackedNames() {
    const shared = numbers("map-shared", Uint8Array);
    let before = "";
    return JSON.parse(document.getElementById("map-names").textContent)
      .split("\n")
      .map((rest, row) => (before = before.slice(0, shared[row]) + rest));
  }

  function className(row) {
    return classes.length ? about.classes[classes[row]] : "";
  }

  // --- pictures: sheets are read one after another, those that are asked for first

  function sheet(number) {
    if (!sheets[number]) {
      const image = new Image();
      sheets[number] = { image, ready: false, waiting: [] };
      image.onload = () => {
        sheets[number].ready = true;
        for (const draw of sheets[number].waiting.splice(0)) draw();
      };
      image.src = `data:image/jpeg;base64,${about.sheets[number]}`;
    }
    return sheets[number];
  }

  function paint(canvas, row) {
    const { side, columns } = about;
    const each = columns * columns;
    const from = sheet(Math.floor(row / each));
    const place = row % each;
    canvas.dataset.row = row;
    const draw = () => {
      if (Number(canvas.dataset.row) !== row) return; // it shows another by now
      [canvas.width, canvas.height] = [side, side];
      const [across, down] = [(place % columns) * side, Math.floor(place / columns) * side];
      canvas.getContext("2d").drawImage(from.image, across, down, side, side, 0, 0, side, side);
    };
    if (from.ready) draw();
    else from.waiting.push(draw);
  }

  function colours() {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const list = [];
    for (let number = 0; number < about.colours; number++) list.push(of(`--dot-${number}`));
    return { list, others: of("--dot-others"), ink: of("--ink"), paper: of("--paper") };
  }

  function size(canvas) {
    const scale = window.devicePixelRatio || 1;
    const side = Math.max(1, Math.round(field.clientWidth * scale));
    if (canvas.width !== side) [canvas.width, canvas.height] = [side, side];
    return side;
  }

  function at(row, side) {
    return [
      ((plane[2 * row] / 65535 - view.x) / view.span + 0.5) * side,
      (0.5 - (plane[2 * row + 1] / 65535 - view.y) / view.span) * side,
    ];
  }

  function drawDots() {
    const [side, pen, shown] = [size(dots), dots.getContext("2d"), colours()];
    const scale = side / Math.max(1, field.clientWidth);
    const wide = scale * Math.min(9, Math.max(2, 160 / Math.sqrt(about.images)) / Math.sqrt(view.span));
    pen.clearRect(0, 0, side, side);
    // classes by turns, so that none hides all others
    const stride = coprime(about.images);
    for (const strong of only < 0 ? [true] : [false, true]) {
      pen.globalAlpha = strong ? 0.85 : 0.12;
      let last = "";
      for (let turn = 0, row = 0; turn < about.images; turn++, row = (row + stride) % about.images) {
        const kind = classes.length ? classes[row] : -1;
        if (only >= 0 && (kind === only) !== strong) continue;
        const [x, y] = at(row, side);
        if (x < -9 || y < -9 || x > side + 9 || y > side + 9) continue;
        const colour = kind >= 0 && kind < shown.list.length ? shown.list[kind] : shown.others;
        if (colour !== last) pen.fillStyle = last = colour;
        pen.fillRect(x - wide / 2, y - wide / 2, wide, wide);
      }
    }
  }

  function coprime(count) {
    const divides = (a, b) => (b ? divides(b, a % b) : a);
    let stride = Math.max(1, Math.round(count * 0.618));
    while (divides(stride, count) > 1) stride++;
    return stride;
  }

  function drawMarks() {
    const [side, pen, shown] = [size(marks), marks.getContext("2d"), colours()];
    const scale = side / Math.max(1, field.clientWidth);
    const row = pointed >= 0 ? pointed : chosen;
    const ring = (of, radius, colour) => {
      const [x, y] = at(of, side);
      pen.beginPath();
      pen.arc(x, y, radius * scale, 0, 2 * Math.PI);
      pen.lineWidth = 5 * scale;
      pen.strokeStyle = shown.paper;
      pen.stroke();
      pen.lineWidth = 2 * scale;
      pen.strokeStyle = colour;
      pen.stroke();
    };
    pen.clearRect(0, 0, side, side);
    for (const other of nearest("trained", row)) ring(other, 5, shown.ink);
    ring(row, 9, shown.ink);
  }

  function nearest(of, row) {
    return near[of].subarray(row * about.neighbours, (row + 1) * about.neighbours);
  }

  function show(row) {
    const [name, kind] = [names[row], className(row)];
    paint(find(".map-shown canvas"), row);
    find(".map-name").textContent = name;
    find(".map-kind").textContent = kind;
    for (const of of ["trained", "untrained"]) {
      const cells = find(`.map-near[data-of=${of}]`).children;
      nearest(of, row).forEach((other, place) => {
        const cell = cells[place];
        const cosine = cosines[row * about.neighbours + place] / 32767.5 - 1;
        const figure = of === "trained" ? cosine.toFixed(3) : "";
        paint(cell.firstChild, other);
        cell.lastChild.textContent = figure;
        cell.dataset.row = other;
        cell.title = [names[other], className(other)].filter(Boolean).join(", ");
        cell.setAttribute("aria-label", figure ? `${cell.title}, cosine ${figure}` : cell.title);
        cell.className = kind ? (kind === className(other) ? "same" : "other") : "";
      });
    }
    drawMarks();
  }

  function choose(row, { bring = false } = {}) {
    [chosen, pointed] = [row, -1];
    const [x, y] = at(row, 1);
    if (bring && (x < 0 || y < 0 || x > 1 || y > 1)) {
      [view.x, view.y] = [plane[2 * row] / 65535, plane[2 * row + 1] / 65535];
      drawDots();
    }
    show(row);
  }

  function rowAt(event) {
    const box = field.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let [best, least] = [-1, REACH * REACH];
    for (let row = 0; row < about.images; row++) {
      if (only >= 0 && classes[row] !== only) continue;
      const [left, top] = at(row, box.width);
      const distance = (left - x) ** 2 + (top - y) ** 2;
      if (distance < least) [best, least] = [row, distance];
    }
    return best;
  }

  // the nearest dot in a direction: as far along it as to its side, or farther; else any that way
  function beside(row, right, up) {
    const [best, least] = [[row, row], [Infinity, Infinity]];
    for (let other = 0; other < about.images; other++) {
      if (only >= 0 && classes[other] !== only) continue;
      const across = plane[2 * other] - plane[2 * row];
      const above = plane[2 * other + 1] - plane[2 * row + 1];
      const [along, aside] = [across * right + above * up, Math.abs(across * up) + Math.abs(above * right)];
      const [distance, rank] = [along + 2 * aside, along >= aside ? 0 : 1];
      if (along > 0 && distance < least[rank]) [best[rank], least[rank]] = [other, distance];
    }
    return best[0] === row ? best[1] : best[0];
  }

  function zoom(factor) {
    view.span = Math.min(1.06, Math.max(0.01, view.span * factor));
    if (view.span === 1.06) [view.x, view.y] = [0.5, 0.5];
    else [view.x, view.y] = [plane[2 * chosen] / 65535, plane[2 * chosen + 1] / 65535];
    redraw();
  }

  function redraw() {
    drawDots();
    drawMarks();
  }

  field.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    const row = rowAt(event);
    if (row === pointed || row < 0) return;
    pointed = row;
    show(row);
  });
  field.addEventListener("pointerleave", () => {
    if (pointed < 0) return;
    pointed = -1;
    show(chosen);
  });
  field.addEventListener("click", (event) => {
    const row = rowAt(event);
    if (row >= 0) choose(row);
  });
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const zooms = { "+": 0.6, "=": 0.6, "-": 1 / 0.6, 0: Infinity, Escape: Infinity };
  field.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ways) choose(beside(chosen, ...ways[event.key]), { bring: true });
    else if (event.key in zooms) zoom(zooms[event.key]);
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll(".map [data-zoom]")) {
    button.addEventListener("click", () => zoom(zooms[button.dataset.zoom]));
  }
  const kinds = [...document.querySelectorAll(".map [data-plane]")];
  for (const button of kinds) {
    button.addEventListener("click", () => {
      plane = planes[button.dataset.plane];
      for (const each of kinds) each.setAttribute("aria-pressed", String(each === button));
      zoom(Infinity);
    });
  }
  find(".map-class")?.addEventListener("change", (event) => {
    only = event.target.value === "" ? -1 : Number(event.target.value);
    if (only >= 0 && classes[chosen] !== only) choose(classes.indexOf(only));
    redraw();
  });
  function search(event) {
    const part = event.target.value.toLowerCase();
    if (!part || (event.key && event.key !== "Enter")) return;
    const after = event.key ? chosen + 1 : 0; // Enter goes on to the next
    for (let turn = 0; turn < about.images; turn++) {
      const row = (after + turn) % about.images;
      if (names[row].toLowerCase().includes(part)) return choose(row, { bring: true });
    }
    find(".map-name").textContent = "no image has this in its name";
  }
  find(".map-find").addEventListener("input", search);
  find(".map-find").addEventListener("keydown", search);
  for (const button of document.querySelectorAll("[data-go]")) {
    button.addEventListener("click", () => {
      choose(Number(button.dataset.go), { bring: true });
      document.querySelector(".map").scrollIntoView({ block: "start" });
    });
  }

  for (const of of ["trained", "untrained"]) {
    for (let place = 0; place < about.neighbours; place++) {
      const cell = document.createElement("button");
      cell.append(document.createElement("canvas"), document.createElement("span"));
      cell.addEventListener("click", () => choose(Number(cell.dataset.row), { bring: true }));
      find(`.map-near[data-of=${of}]`).append(cell);
    }
  }
  for (const element of document.querySelectorAll(".map [hidden]")) element.hidden = false;
  find(".map-still").remove();
  new ResizeObserver(redraw).observe(field);
  for (const query of ["(prefers-color-scheme: dark)", "print"]) {
    window.matchMedia(query).addEventListener("change", redraw);
  }
  choose(0);
  redraw();
  const rest = () => {
    const next = sheets.indexOf(null);
    if (next < 0) return;
    sheet(next).waiting.push(() => setTimeout(rest, 0));
  };
  setTimeout(rest, 0);
})();
