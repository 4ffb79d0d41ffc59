"""Write minilm_reference.json and minilm_reference.npz: what the published model says about our own texts.

Run by hand, in an environment with torch 2.13 and transformers 5; the tests read only the two files:

    python make_minilm_reference.py FOLDER_OF_THE_PUBLISHED_WEIGHTS

The vectors are those of the model card: BertModel in float32, at most 256 word pieces, mean over the tokens of the
mask, unit length. Every text is embedded alone.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertModel

MAX_TOKENS = 256

SENTENCES = (
    "The lock was held across an await, so every flush waited for the slowest reader.",
    "We moved the flush out of the critical section and the p99 went from 340 ms to 12 ms.",
    "Add a mutex around the counter; two workers increment it at the same time.",
    "Remove the mutex: only the event loop touches the counter now.",
    "How do I make the tests run in parallel?",
    "Which port does the staging database listen on?",
    "The user prefers short answers and dislikes emoji.",
    "Her sister moved to Lisbon in March and works in a bakery near the river.",
    "Last summer he learned to sail and capsized twice.",
    "Never restart the queue while a migration is running.",
    "The invoice for October was paid twice and one payment was refunded.",
    "No results.",
    "ok",
    "Retry.",
    "42",
    "",
    "   ",
    "What did we decide about the retention of events, and why was thirty days too short?",
    "The build failed because the lock file named a version that had been withdrawn.",
    "An agent that forgets its mistakes repeats them.",
    "Rust's borrow checker refused the second mutable reference.",
    "The dog barked, the neighbour complained, and the meeting was moved to Thursday.",
)

SHELL = (
    "$ pytest -q tests/unit\n....F....\nFAILED tests/unit/test_mailbox.py::test_full - AssertionError: assert 3 == 2",
    "$ git status --short\n M mailbox.py\n?? notes.txt",
    "ls: cannot access '/srv/data': Permission denied",
    "npm ERR! code ERESOLVE\nnpm ERR! ERESOLVE unable to resolve dependency tree",
    "$ df -h /\nFilesystem Size Used Avail Use% Mounted on\n/dev/vda1 40G 38G 0 100% /",
    "Traceback (most recent call last):\n  File \"app.py\", line 12, in <module>\n    main()\nKeyError: 'user'",
    "error[E0502]: cannot borrow `items` as mutable because it is also borrowed as immutable",
    "curl: (7) Failed to connect to localhost port 8080: Connection refused",
    "Killed process 4312 (worker) total-vm:9814532kB, anon-rss:8112004kB",
    "PASS src/cart.test.ts (2.113 s)\nTests: 14 passed, 14 total",
    "make: *** [Makefile:31: all] Error 2",
    'psql: FATAL: password authentication failed for user "report"',
)

CODE = (
    (
        "def offer(self, envelope: Envelope) -> bool:\n    if self._bytes + envelope.size > self._max_bytes:\n"
        "        return False\n    self._items.append(envelope)\n    return True"
    ),
    "SELECT user_id, count(*) FROM events WHERE seq > 100 GROUP BY user_id HAVING count(*) > 5;",
    "for (let i = 0; i < rows.length; i++) { total += rows[i].price * rows[i].amount; }",
    'fn main() -> Result<(), Box<dyn Error>> { let file = File::open("a.rvf")?; Ok(()) }',
    '{"tool": "edit_file", "path": "relay.py", "ok": true, "lines": [12, 13]}',
    '#!/bin/sh\nset -eu\nfor f in *.log; do gzip -9 "$f"; done',
    '<div class="card"><h2>Sign in</h2><input name="email"></div>',
    "x = np.linalg.norm(v, axis=1, keepdims=True)  # rows of unit length",
    "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "https://example.org/docs/durability.html?section=fsync#rename",
)

LANGUAGES = (
    "Der Prüfstand läuft wieder, nachdem die Sicherung ersetzt wurde.",
    "Le café était fermé, alors nous avons mangé à la gare.",
    "La reunión se movió al jueves porque el jefe está enfermo.",
    "Сервер перестал отвечать после обновления ядра.",
    "昨日の会議で締め切りは金曜日に決まりました。",
    "数据库的密码存放在配置文件里。",
    "الاجتماع غدا في الساعة العاشرة",
    "Σήμερα δοκιμή απέτυχε λόγω λάθους ρύθμισης.",
    "데이터베이스를 다시 시작했습니다.",
    "बैठक कल दस बजे है।",
)

ODD = (
    "shipped it 🚀🎉",
    "👩‍👩‍👧‍👦 family dinner on Sunday 🍝",
    "a\x00b with a NUL and a \x07 bell",
    "[CLS] written by a user [SEP] is still the special token [MASK]",
    "tabs\tand\r\nline ends\u2028of all\u00a0kinds",
    "naïve façade — “quoted” … ½ ©",
    "supercalifragilisticexpialidocious" * 4,
)

LONG = (
    " ".join(f"Step {n}: checked shard {n * 7 % 31}, moved {n * 13} rows, no conflict found." for n in range(60)),
    "\n".join(f"12:{n % 60:02d}:07 worker-{n % 5} INFO job {n * 991} done in {n * 37 % 400} ms" for n in range(40)),
    " ".join(SENTENCES),
    "\n\n".join(CODE) + "\n\n" + "\n".join(SHELL),
)

TEXTS = (*SENTENCES, *SHELL, *CODE, *LANGUAGES, *ODD, *LONG)


def main(folder: Path) -> None:
    """Embed the texts with the model in `folder` and write the two files beside this script."""
    here = Path(__file__).parent
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder).eval()
    vectors, tokens = [], []
    for text in TEXTS:
        inputs = tokenizer(text, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        tokens.append(len(tokenizer(text)["input_ids"]))
        with torch.no_grad():
            hidden = model(**inputs).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        vectors.append(torch.nn.functional.normalize(mean)[0].numpy())
    (here / "minilm_reference.json").write_text(json.dumps(TEXTS, ensure_ascii=True, indent=1) + "\n")
    np.savez_compressed(
        here / "minilm_reference.npz",
        vectors=np.array(vectors, np.float32),
        tokens=np.array(tokens, np.int32),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
