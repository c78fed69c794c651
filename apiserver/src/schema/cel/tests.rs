//! Expressions as tables: what each comes to, what is refused before it is evaluated, and what hostile ones cost.

use super::{Failure, Gives, Meter, Program, Scope, Val};
use crate::schema::Node;
use proptest::prelude::*;
use serde_json::{Value, json};

fn node(schema: Value) -> Node {
    Node::compile(&schema, "").unwrap()
}

fn run_on(schema: Value, value: &Value, text: &str) -> Result<bool, String> {
    let node = node(schema);
    let program = Program::compile(text, Scope { node: &node, whole: false, optional_old: false }, Gives::Bool)?;
    let this = Val::of(value, Some(&node));
    match program.run(this.clone(), this, &mut Meter::new()) {
        Ok(Val::Bool(value)) => Ok(value),
        Ok(other) => Err(format!("a {}", other.type_name())),
        Err(failure) => Err(failure.to_string()),
    }
}

/// On a value that the schema says nothing of.
fn run(text: &str) -> Result<bool, String> {
    let value =
        json!({ "a": { "b": 1 }, "list": [3, 1, 2], "s": "héllo", "n": null, "f": 1.5, "x-y": true, "big": 18446744073709551615u64 });
    run_on(json!({ "x-kubernetes-preserve-unknown-fields": true }), &value, text)
}

#[test]
fn what_expressions_come_to() {
    let hold = [
        // The language.
        "1 + 2 * 3 == 7 && 7 / 2 == 3 && 7 % 4 == 3 && -(3) == -3 && 2u + 3u == 5u && 1.5 * 2.0 == 3.0",
        "dyn(1) == dyn(1.0) && dyn(2) > dyn(1.5) && dyn(1) < dyn(2u) && self.big > 1 && !(dyn(0.0 / 0.0) < dyn(1.0))",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2] && 'a' < 'b' && false < true && 'é' == '\\u00e9'",
        "[1, 2, 3][1] == 2 && {'a': 1}['a'] == 1 && {'a': 1}.a == 1 && self.list[2] == 2 && {1: 'x'}[dyn(1.0)] == 'x'",
        "2 in [1, 2] && !(5 in self.list) && 'a' in {'a': 1} && 'a' in self && self.a == {'b': 1} && self.n == null && self.a != {'b': 2}",
        "(true ? 1 : 2) == 1 && (self.n.x == 1 || true) && (true || self.n.x == 1) && !(self.n.x == 1 && false)",
        "has(self.a.b) && !has(self.a.c) && has(self.a) && !has({'x': 1}.y) && self.x__dash__y",
        "size('héllo') == 5 && self.s.size() == 5 && size([1, 2]) == 2 && size({'a': 1}) == 1 && size(b'abc') == 3",
        "type(1) == int && type('a') == string && type([]) == list && type({}) == map && type(1.0) == double && type(type(1)) == type",
        "int('12') == 12 && int(3.9) == 3 && uint(3) == 3u && double('1.5') == 1.5 && string(12) == '12' && string(true) == 'true' && bool('true')",
        // Macros.
        "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x > 2) && !self.list.existsOne(x, x > 1)",
        "self.list.map(x, x * 2) == [6, 2, 4] && self.list.map(x, x > 1, x * 2) == [6, 4] && self.list.filter(x, x > 1) == [3, 2]",
        "{'a': 1, 'b': 2}.all(k, k < 'c') && {'a': 1}.all(k, v, k == 'a' && v == 1) && ['x'].all(i, v, i == 0 && v == 'x')",
        "[1, 2].exists(x, x / 0 == 1 || x == 2) && [[1], [2]].all(l, l.all(x, x in [1, 2])) && [1, 2].transformList(i, v, i + v) == [1, 3]",
        "[].all(x, false) && ![].exists(x, true) && self.list.all(x, self.list.exists(y, y == x))",
        // Texts.
        "self.s.startsWith('hé') && 'abc'.endsWith('bc') && 'abc'.contains('b') && 'a1'.matches('^[a-z][0-9]$') && matches('abc', 'b')",
        "'aBc'.lowerAscii() == 'abc' && 'aBc'.upperAscii() == 'ABC' && ' a '.trim() == 'a' && 'abc'.reverse() == 'cba'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'ab'.split('') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b'",
        "'hello'.replace('l', 'L') == 'heLLo' && 'hello'.replace('l', 'L', 1) == 'heLlo' && 'ab'.replace('', '-') == '-a-b-' && ['a', 'b'].join() == 'ab'",
        "'héllo'.substring(1) == 'éllo' && 'héllo'.substring(1, 2) == 'é' && 'héllo'.charAt(1) == 'é' && 'abc'.charAt(3) == ''",
        "'héllo'.indexOf('l') == 2 && 'héllo'.lastIndexOf('l') == 3 && 'abcabc'.indexOf('a', 1) == 3 && 'abc'.indexOf('z') == -1 && 'abcabc'.lastIndexOf('a', 2) == 0",
        "'abc 123'.find('[0-9]+') == '123' && '1 22 333'.findAll('[0-9]+') == ['1', '22', '333'] && '1 22'.findAll('[0-9]+', 1) == ['1']",
        // Lists and sets.
        "[1, 2, 2].isSorted() && !self.list.isSorted() && self.list.sum() == 6 && self.list.min() == 1 && self.list.max() == 3 && [].sum() == 0",
        "self.list.indexOf(2) == 2 && ['a', 'b', 'a'].lastIndexOf('a') == 2 && [1].indexOf(5) == -1 && ['a', 'b'].isSorted()",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 2, 2], [2, 1]) && sets.intersects([1], [1, 2]) && !sets.intersects([1], [2])",
        "lists.range(3) == [0, 1, 2] && [1, 2, 3].reverse() == [3, 2, 1] && [1, 2, 3].slice(1, 3) == [2, 3] && [3, 1].sort() == [1, 3]",
        "[[1], [2, 3]].flatten() == [1, 2, 3] && [1, 1, 2].distinct() == [1, 2] && [-3, 1].sortBy(e, e * e) == [1, -3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && {'a': 1}.transformMapEntry(k, v, {k + 'b': v}) == {'ab': 1}",
        "'%d %s %.2f %x %b %%'.format([1, 'a', 1.5, 255, 5]) == '1 a 1.50 ff 101 %' && '%s %s'.format([[1, 2], {'a': 1}]) == '[1, 2] {a: 1}'",
        // Quantities.
        "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').isLessThan(quantity('1')) && quantity('1Ki') == quantity('1024')",
        "isQuantity('1.5Gi') && !isQuantity('1.5GB') && !isQuantity('') && quantity('1.5Gi').asInteger() == 1610612736 && quantity('100m').asApproximateFloat() == 0.1",
        "quantity('1').add(quantity('500m')) == quantity('1500m') && quantity('1').sub(2).sign() == -1 && quantity('2e3').compareTo(quantity('2k')) == 0 && !quantity('1m').isInteger()",
        // Versions.
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0').isGreaterThan(semver('1.0.0-rc.1')) && semver('1.0.0+a') == semver('1.0.0+b')",
        "semver('1.2.3').compareTo(semver('1.2.3')) == 0 && semver('4.5.6-x').major() == 4 && semver('4.5.6').minor() == 5 && semver('4.5.6').patch() == 6",
        "isSemver('1.0.0') && !isSemver('v1.0') && !isSemver('01.0.0') && isSemver('v1.0', true) && isSemver('01.00.0-x', true) && !isSemver('1.0-x', true) && !isSemver('', true)",
        "semver('v01.2', true) == semver('1.2.0') && type(semver('1.0.0')) == kubernetes.Semver",
        // Times.
        "duration('1h30m') == duration('90m') && duration('1.5s') > duration('1499ms') && duration('90m').getMinutes() == 90 && string(duration('1500ms')) == '1.5s'",
        "timestamp('2026-01-02T03:04:05Z').getHours() == 3 && timestamp('2026-01-02T03:04:05Z').getHours('+02:00') == 5 && timestamp('2026-01-02T03:04:05Z').getMonth() == 0",
        "timestamp('2026-01-02T00:00:00Z') - timestamp('2026-01-01T00:00:00Z') == duration('24h') && timestamp('2026-01-01T00:00:00Z') + duration('1h') > timestamp('2026-01-01T00:00:00Z')",
        // Networks and URLs.
        "isIP('10.0.0.1') && !isIP('10.0.0.256') && ip('::1').isLoopback() && ip('10.0.0.1').family() == 4 && ip('10.0.0.1').isGlobalUnicast() && ip.isCanonical('::1')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsIP(ip('11.0.0.1')) && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && isCIDR('::/0')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('0.0.0.0/0').containsIP('1.2.3.4') && cidr('10.0.0.1/32').prefixLength() == 32 && string(cidr('::/0').ip()) == '::'",
        "url('https://h:8443/a%20b?x=1&x=2').getHost() == 'h:8443' && url('https://h:8443/a').getPort() == '8443' && url('https://[::1]:80/').getHostname() == '::1'",
        "url('https://h/a?x=1&x=a%20b').getQuery()['x'] == ['1', 'a b'] && isURL('/abs') && !isURL('../x') && url('https://h').getEscapedPath() == '' && url('https://h/a').getScheme() == 'https'",
        "format.dns1123Label().validate('my-name') == optional.none() && format.dns1123Label().validate('My name').value().size() == 1",
        "!format.dns1123LabelPrefix().validate('my-').hasValue() && format.dns1035Label().validate('1a').hasValue() && !format.labelValue().validate('a.B').hasValue()",
        "!format.uuid().validate('123e4567-e89b-12d3-a456-426614174000').hasValue() && format.named('date').value().validate('soon').hasValue() && !format.named('x').hasValue()",
        // What may be absent.
        "self.?a.?b.orValue(0) == 1 && self.?a.?c.orValue(7) == 7 && self.?z.b.orValue('x') == 'x' && !self.?z.hasValue() && self.list[?9].orValue(5) == 5",
        "optional.of(1).optMap(x, x + 1).value() == 2 && !optional.none().optMap(x, x + 1).hasValue() && optional.none().or(optional.of(3)).value() == 3",
        "optional.of(1).optFlatMap(x, optional.of(x + 1)) == optional.of(2) && [?optional.none(), 1] == [1] && !optional.ofNonZeroValue('').hasValue()",
    ];
    for text in hold {
        assert_eq!(run(text), Ok(true), "{text}");
    }
}

#[test]
fn what_cannot_be_evaluated_says_why() {
    let cases = [
        ("self.a.c == 1", "no such key: c"),
        ("self.list[3] == 1", "index out of bounds: 3"),
        ("self.list[-1] == 1", "index out of bounds: -1"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("self.n.x == 1", "no such overload: null_type.x"),
        ("self.a + 1 == 2", "no such overload: _+_(map, int)"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("-9223372036854775808 / -1 == 0", "integer overflow"),
        ("-9223372036854775808 % -1 == 0", "integer overflow"),
        ("1 / 0 == 0", "division by zero"),
        ("1 % 0 == 0", "modulus by zero"),
        ("1u - 2u == 0u", "unsigned integer overflow"),
        ("int('x') == 0", "type conversion error from 'string' to 'int'"),
        ("int(1e300) == 0", "type conversion error from 'double' to 'int'"),
        ("'abc'.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
        ("'abc'.charAt(4) == ''", "index out of range: 4"),
        ("'abc'.indexOf('a', 9) == 0", "index out of range: 9"),
        ("'abc'.matches(self.s + '(')", "\"héllo(\" is not a pattern"),
        ("[].min() == 1", "min called on empty list"),
        ("['a'].sum() == 'a'", "no such overload: sum(list)"),
        ("duration('1' + 'y') > duration('1s')", "it is no duration"),
        ("duration('9999999999' + 'h') > duration('1s')", "it is no duration"),
        ("[1, 2].slice(0, 3) == []", "cannot slice(0, 3), list is length 2"),
        ("[1, 'a'].sort() == []", "no such overload: _<_(string, int)"),
        ("'%d'.format(['a']) == ''", "a string does not go with %d in a format"),
        ("'%d'.format([]) == ''", "more places in the format than values"),
        ("timestamp('9999-12-30T00:00:00Z') + duration('2000000h') > timestamp(0)", "timestamp overflow"),
        ("quantity('x') == quantity('1')", "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"),
        ("semver('1.0') == semver('1.0.0')", "it is no semantic version"),
        ("semver('1.0.0').isLessThan(quantity('1'))", "no such overload: isLessThan(kubernetes.Semver, kubernetes.Quantity)"),
        ("optional.none().value() == 1", "optional.none() dereference"),
        ("{'a': 1, 'a': 2}.size() == 1", "Failed with repeated key"),
        ("self.list.all(x, x)", "no such overload: _&&_(int)"),
        ("dyn(1) || false", "no such overload: _||_(int)"),
    ];
    for (text, why) in cases {
        assert_eq!(run(text), Err(why.to_owned()), "{text}");
    }
}

#[test]
fn what_is_no_expression_is_refused_with_its_place() {
    let cases = [
        ("self.a ==", "1:10: "),
        ("self.a == 1 1", "1:13: "),
        ("selfie == 1", "undeclared reference to 'selfie'"),
        ("self.nothing()", "undeclared reference to 'nothing'"),
        ("nothing(self)", "undeclared reference to 'nothing'"),
        ("'a'.startsWith()", "'startsWith' does not take 0 arguments"),
        ("'a'.matches('(')", "\"(\" is not a pattern"),
        ("'a'.matches('((a{999}){999}){999}')", "the pattern is too large"),
        ("1 + 1", "it must evaluate to a bool and not to a int"),
        ("duration('1y') > duration('1s')", "invalid duration argument"),
        ("timestamp('soon') > timestamp(0)", "invalid timestamp argument"),
        ("'a' == null", "found no matching overload for '_==_' applied to '(string, null)'"),
        ("'a' == 1", "found no matching overload for '_==_' applied to '(string, int)'"),
        ("!1", "found a int where a bool is expected"),
        ("1.exists(x, true)", "expression of type 'int' cannot be range of a comprehension"),
        ("'a'.all(x, true)", "expression of type 'string' cannot be range of a comprehension"),
        ("[1].all(1, true)", "all() must be told the name of a variable"),
        ("has(1)", "invalid argument to has() macro"),
        ("Some{a: 1} == 1", "undeclared reference to 'Some'"),
        ("", "1:1: "),
    ];
    for (text, why) in cases {
        let told = run(text).unwrap_err();
        assert!(told.starts_with(why), "{text}: {told}");
    }
}

#[test]
fn the_schema_says_what_fields_there_are_and_of_what_type() {
    let schema = json!({ "type": "object", "properties": {
        "number": { "type": "number" },
        "count": { "type": "integer" },
        "at": { "type": "string", "format": "date-time" },
        "blob": { "type": "string", "format": "byte" },
        "wait": { "type": "string", "format": "duration" },
        "port": { "x-kubernetes-int-or-string": true },
        "namespace": { "type": "string" },
        "set": { "type": "array", "x-kubernetes-list-type": "set", "items": { "type": "string" } },
        "tags": { "type": "object", "additionalProperties": { "type": "object", "properties": { "x.y": { "type": "string" } } } },
        "disks": { "type": "array", "items": { "type": "object", "properties": { "name": { "type": "string" } } } },
    } });
    let value = json!({ "number": 2, "count": 2, "at": "2026-01-01T00:00:00Z", "blob": "YWI=", "wait": "1m", "port": "http", "namespace": "n",
        "set": ["a", "b"], "tags": { "t": { "x.y": "z" } }, "disks": [{ "name": "d" }] });
    let hold = [
        "type(self.number) == double && self.number == 2.0 && type(self.count) == int",
        "self.at < timestamp('2027-01-01T00:00:00Z') && self.blob == b'ab' && self.wait == duration('60s')",
        "type(self.port) == string && self.__namespace__ == 'n' && self.tags['t'].x__dot__y == 'z' && self.tags.t.x__dot__y == 'z'",
        "self.disks.all(d, d.name == 'd') && self.tags.all(t, t.startsWith('t')) && self == oldSelf",
    ];
    for text in hold {
        assert_eq!(run_on(schema.clone(), &value, text), Ok(true), "{text}");
    }
    let refused = [
        ("self.cuont == 1", "undefined field 'cuont'"),
        ("has(self.cuont)", "undefined field 'cuont'"),
        ("self.disks.all(d, d.nmae == '')", "undefined field 'nmae'"),
        ("self.disks[0].nmae == ''", "undefined field 'nmae'"),
        ("self.tags.t.x == ''", "undefined field 'x'"),
        ("self.count.x == 1", "type 'int' does not support field selection"),
        ("self.count == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ("self.count", "it must evaluate to a bool and not to a int"),
    ];
    for (text, why) in refused {
        assert_eq!(run_on(schema.clone(), &value, text).unwrap_err(), why, "{text}");
    }
    // A set is the same in whatever order, a list is not.
    let node = node(schema);
    let program =
        Program::compile("self.set == oldSelf.set", Scope { node: &node, whole: false, optional_old: false }, Gives::Bool).unwrap();
    let (new, old) = (json!({ "set": ["a", "b"] }), json!({ "set": ["b", "a"] }));
    assert!(matches!(program.run(Val::of(&new, Some(&node)), Val::of(&old, Some(&node)), &mut Meter::new()), Ok(Val::Bool(true))));
}

#[test]
fn what_an_expression_costs_is_bounded() {
    let ten = "[1,2,3,4,5,6,7,8,9,10]";
    let within = |depth: usize, body: &str| (0..depth).fold(body.to_owned(), |body, at| format!("{ten}.all(x{at}, {body})"));
    let doubled = (0..60).fold("['aaaaaaaaaa']".to_owned(), |list, _| format!("{list}.map(x, x + x)"));
    let cases = [
        within(8, "true"),
        format!("{doubled}.size() == 1"),
        format!("{}.size() == 1", (0..60).fold("[[1]]".to_owned(), |list, _| format!("{list}.map(x, x + x)"))),
        format!("{}.all(x, x.size() > 0)", (0..12).fold("['aaaaaaaaaa']".to_owned(), |list, _| format!("{list}.map(x, x.replace('', x))"))),
        within(3, "'a'.matches('a|' + string(x0))"),
    ];
    for text in cases {
        let node = node(json!({ "x-kubernetes-preserve-unknown-fields": true }));
        let program = Program::compile(&text, Scope { node: &node, whole: false, optional_old: false }, Gives::Bool).unwrap();
        let outcome = program.run(Val::Null, Val::Null, &mut Meter::new());
        assert!(matches!(outcome, Err(Failure::Call)), "{text}: {outcome:?}");
    }
}

#[test]
fn deep_and_long_texts_are_refused_or_read_and_overflow_no_stack() {
    for count in [90, 1000, 4000] {
        let texts = [
            format!("{}true{}", "(".repeat(count), ")".repeat(count)),
            format!("{}true", "!".repeat(count)),
            format!("{}1{} == 1", "[".repeat(count), "]".repeat(count)),
            format!("self{} == 1", ".a".repeat(count)),
            format!("1{} == 1", " + 1".repeat(count)),
            format!("{}true", "true ? true : ".repeat(count)),
            format!("{}1 == 1", "-".repeat(count)),
            "(".repeat(count),
            "'".repeat(count),
            format!("self{}", "[0]".repeat(count)),
            format!("self{}", ".f(1)".repeat(count)),
            "\u{10ffff}".repeat(count),
        ];
        for text in texts {
            run(&text).ok();
        }
    }
    // A chain of conditions is not deep, however long it is.
    assert_eq!(run(&vec!["true"; 1500].join(" && ")), Ok(true));
    assert_eq!(run(&vec!["false"; 1500].join(" || ")), Ok(false));
    assert!(run(&"a".repeat(20_000)).unwrap_err().contains("longer than"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_compiler_or_the_evaluation_panic(parts in proptest::collection::vec(prop_oneof![
        Just("self"), Just("oldSelf"), Just(".a"), Just(".?b"), Just(".list"), Just("[0]"), Just("[?1]"), Just("."), Just("("), Just(")"), Just("["), Just("]"),
        Just("{"), Just("}"), Just(":"), Just(","), Just("?"), Just(" && "), Just(" || "), Just(" == "), Just(" + "), Just(" - "), Just(" / "), Just(" in "),
        Just("!"), Just("-"), Just("1"), Just("2u"), Just("1.5"), Just("'x'"), Just("b'x'"), Just("null"), Just("true"), Just("x"), Just(".all(x, "),
        Just(".map(x, "), Just(".size()"), Just("size("), Just(".split('')"), Just(".sum()"), Just(".indexOf('x', 1)"), Just(".substring(1)"), Just("\\"), Just("\""),
        Just("9223372036854775807"), Just("-9223372036854775808"), Just(".lastIndexOf('x', 0)"), Just("duration('1h')"), Just("quantity('1')"), Just("é"),
    ], 1..14)) {
        run(&parts.concat()).ok();
    }

    #[test]
    fn no_quantity_duration_address_or_url_makes_a_function_panic(text in "[-+0-9a-zA-Z.:/%?=&@µ\\[\\]]{0,24}") {
        for call in ["isQuantity(X)", "quantity(X).add(quantity(X)).sub(1).isInteger()", "duration(X) + duration(X) > duration('1s')", "timestamp(X) > timestamp(0)",
            "isIP(X)", "isCIDR(X)", "cidr(X).containsIP(X)", "url(X).getQuery().size() == 0", "timestamp(0).getHours(X) == 0", "X.matches(X)", "semver(X, true).major() == semver(X).minor()"] {
            run(&call.replace('X', &format!("'{text}'"))).ok();
        }
    }
}
