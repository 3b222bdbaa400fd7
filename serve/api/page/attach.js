"use strict";
// Text files that become a part of the message: what is sent is what stands in its field.

const LONGEST_FILE = 1 << 20;  // bytes

/** A file's text with its name, fenced; throws with what is wrong with it. */
async function blockOf(file) {
  if (file.size > LONGEST_FILE) throw new Error(`${file.name} is larger than 1 MiB.`);
  let text;
  try {
    text = new TextDecoder("utf-8", {fatal: true}).decode(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} is no text in UTF-8.`);
  }
  let marks = 3;
  for (const [run] of text.matchAll(/`{3,}/g)) marks = Math.max(marks, run.length + 1);
  const fence = "`".repeat(marks);
  return `${file.name}:\n${fence}\n${text.replace(/\n$/, "")}\n${fence}\n`;
}

/** Put files behind what the field of the message holds. */
async function attach(files) {
  $("status").textContent = "";
  for (const file of files) {
    try {
      const before = $("prompt").value.trimEnd();
      const block = await blockOf(file);
      $("prompt").value = (before ? `${before}\n\n` : "") + block;
    } catch (error) {
      $("status").textContent = error.message;
    }
  }
  $("prompt").focus();
}
