"""The page at ``/docs``: self-contained, since servers often have no way to the internet."""

__all__ = ["DOCS_PAGE"]

DOCS_PAGE = """<!doctype html>
<html lang="zh"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>easynlp</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
textarea, input { font: inherit; width: 100%; box-sizing: border-box }
pre { background: #f4f4f4; padding: .8rem; overflow: auto }
button { font: inherit; padding: .3rem 1rem; margin: .5rem 0 }
td { padding-right: 1.5rem; vertical-align: top }
</style>
<h1>easynlp</h1>
<p id="about"></p>
<label>Body of POST /predict
<textarea id="body" rows="4">{"text": "房间很干净，下次还来"}</textarea></label>
<label>API key (if the server wants one) <input id="key" type="password" autocomplete="off"></label>
<button id="send">Send / 发送</button>
<pre id="answer"></pre>
<h2>Bodies</h2>
<pre>{"text": "…"}
{"text": "…", "text_b": "…"}
{"texts": ["…", {"text": "…", "text_b": "…"}]}</pre>
<h2>Routes</h2>
<table id="routes"></table>
<p>All of it, for programs: <a href="openapi.json">openapi.json</a></p>
<script>
const $ = id => document.getElementById(id);
const headers = () => $("key").value ? {Authorization: "Bearer " + $("key").value} : {};
const show = async (reply) => $("answer").textContent =
  reply.status + "\\n" + JSON.stringify(await reply.json(), null, 1);
$("send").onclick = () => fetch("predict", {method: "POST", body: $("body").value,
  headers: {...headers(), "Content-Type": "application/json"}}).then(show)
  .catch(error => $("answer").textContent = error);
fetch("./").then(r => r.json()).then(v => $("about").textContent =
  v.error ? "" : [v.name, v.task, v.backend, v.status].filter(Boolean).join(" · "));
fetch("openapi.json").then(r => r.json()).then(v => {
  for (const [path, methods] of Object.entries(v.paths || {}))
    for (const [method, it] of Object.entries(methods)) {
      const row = $("routes").insertRow();
      row.insertCell().textContent = method.toUpperCase() + " " + path;
      row.insertCell().textContent = it.summary;
    }
});
</script>
</html>
"""
