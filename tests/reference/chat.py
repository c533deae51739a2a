"""Renders chat templates with Jinja2, set up as Hugging Face's transformers does, into tests/data/chat.json.

The templates are our own, in the manner of those that models carry. Run with Jinja2 3.1: python3 chat.py > ../data/chat.json
"""

import datetime
import json
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

NOW = 1735603200  # 2024-12-31


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(x, ensure_ascii=False, indent=None):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent)


def now(format):
    return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(format)


env = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
)
env.filters["tojson"] = to_json
env.globals["raise_exception"] = refuse
env.globals["strftime_now"] = now

TEMPLATES = {
    "chatml": """{% for m in messages %}
{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' -}}
{% endif %}""",
    "brackets": """{%- if messages and messages[0].role == 'system' -%}
    {%- set lead = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set lead = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('turns must alternate, beginning with the user') }}
    {%- endif -%}
    {%- if turn['role'] == 'user' -%}
        {{ bos_token + '[INST] ' + (lead if loop.first else '') + turn['content'].strip() + ' [/INST]' }}
    {%- elif turn['role'] == 'assistant' -%}
        {{ ' ' + turn['content'].strip() + ' ' + eos_token }}
    {%- endif -%}
{%- endfor -%}""",
    "headers": """{{- bos_token }}
{%- set date = strftime_now('%d %b %Y') %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday is ' + date + '.' }}
{%- if messages and messages[0]['role'] == 'system' %}
    {{- '\\n\\n' + messages[0]['content'] | trim }}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    "turns": """{{ bos_token }}{% for message in messages %}
    {%- if message['role'] == 'system' -%}
        {{ raise_exception('no system role here') }}
    {%- endif -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{ '<start_of_turn>' ~ role ~ '\\n' ~ (message['content'] | trim) ~ '<end_of_turn>\\n' }}
{%- endfor -%}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}""",
    "bars": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
""",
    "tags": """{%- macro head(role) -%}<|{{ role | upper }}|>{%- endmacro -%}
{%- for m in messages -%}
    {{ head(m.role) }}
    {%- if m.role == 'assistant' -%}
        {%- generation -%} {{ m.content }}</s>{%- endgeneration -%}
    {%- else %} {{ m.content }}{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ head('assistant') }}{%- endif -%}""",
    "json": """{%- set ns = namespace(users=0) -%}
{%- for m in messages -%}{%- if m.role == 'user' -%}{%- set ns.users = ns.users + 1 -%}{%- endif -%}{%- endfor -%}
{{ ns.users }} {{ messages | tojson }}
{{ {'b': [1, 2.5, none, true], 'a': 'x<y>&\\'"é\\\\u003c'} | tojson }}
{{ messages[-1] | tojson(indent=2) }}
{{ [] | tojson }} {{ {} | tojson }}""",
    "methods": """{%- for m in messages -%}
    {%- if loop.previtem is defined and loop.previtem.role == m.role -%}{%- continue -%}{%- endif -%}
    {%- if loop.index > 4 -%}{%- break -%}{%- endif -%}
    {{ m.role.upper() }}|{{ m.content.replace('a', '4').strip() }}|{{ m.content.split(' ')[0] }}|
    {%- if m.content.startswith('H') and not m.content.endswith('?') -%}h{%- endif -%}
    {%- for key, value in m.items() -%}{{ key }}={{ value | length }};{%- endfor -%}
    {{ m.get('name', 'nobody') }} {{ m['content'][:3] }} {{ m['content'][-2:] }}
{%- endfor -%}
{{ messages[::-1][0].role }} {{ tools is none }} {{ name is defined }} {{ ['a', 'b'] | join('-') }}
{{- messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 'x' in 'xyz' }} {{ loop is defined }}
{% raw %}{{ raw }}{% endraw %}
{# gone #}
{%- set long -%}  text  {%- endset %}{{ long }}{{ '%s' | format('f') }} {{ messages | map(attribute='role') | join(',') }}""",
    "refused": "{{ messages.nothing.at.all }}",
}

U, A, S = "user", "assistant", "system"
CONVERSATIONS = [
    [],
    [(U, "Hello")],
    [(U, "Hi there."), (A, "Hello!")],
    [(S, "Be brief."), (U, "  What is 2+2?\n"), (A, " 4 ")],
    [(U, "one"), (A, "two"), (U, "three"), (A, "four"), (U, "five")],
    [(U, "é <|im_end|> </s> {{ 7 * 7 }} {% if %}"), (A, "\"quoted\" & 'so' \\ \n\t")],
    [(A, "I begin."), (U, "Ha")],
    [(U, "")],
]

out = []
for name, source in TEMPLATES.items():
    template = env.from_string(source)
    for conversation in CONVERSATIONS:
        for prompt in (False, True):
            try:
                text = template.render(
                    messages=[{"role": role, "content": content} for role, content in conversation],
                    add_generation_prompt=prompt,
                    tools=None,
                    documents=None,
                    bos_token="<s>",
                    eos_token="</s>",
                )
            except (jinja2.exceptions.TemplateError, TypeError):
                text = None
            out.append({"template": name, "messages": conversation, "prompt": prompt, "text": text})
json.dump({"now": NOW, "templates": TEMPLATES, "cases": out}, sys.stdout, ensure_ascii=False, indent=1)
print()
