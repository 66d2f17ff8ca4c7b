import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from limner.report.pages import environment, footer, render

PARTS = {"title": "a", "kind": "b", "lead": "c", "key": "d", "body": "e", "footer": "f"}


def test_text_is_escaped_and_html_is_not():
    page = render("page.html", **PARTS | {"title": '<b>&"\x00\ud800', "body": Markup("<i>x</i>")})
    assert "<h1>&lt;b&gt;&amp;&#34;??</h1>" in page and "<i>x</i>" in page


def test_text_is_no_template():
    page = render("page.html", **PARTS | {"title": "{{ footer }}{% raw %}"})
    assert "<h1>{{ footer }}{% raw %}</h1>" in page


@pytest.mark.parametrize("name", sorted(PARTS))
def test_a_value_that_is_missing_is_an_error(name):
    with pytest.raises(UndefinedError, match=name):
        render("page.html", **{key: value for key, value in PARTS.items() if key != name})


def test_every_template_can_be_read():
    names = environment().list_templates()
    assert {"demo.html", "page.html"} <= set(names)
    for name in names:
        environment().get_template(name)


def test_the_footer_says_who_made_the_page():
    assert footer().startswith("Made by Limner ")
