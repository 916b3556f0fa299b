// json.h: fields with type and range, messages that name file and field, files written back.
#include "../../trainer/json.h"

#include <stdlib.h>
#include <string.h>

#include "../../trainer/file.h"
#include "expect.h"

static bool parse(json_t **root, const char *text, fault *f) {
    return json_read_bytes(root, text, strlen(text), "t.json", f);
}

static void broken_text(void) {
    json_t *root;
    fault f = {0};
    REFUSED(parse(&root, "", &f), &f, FAULT_INPUT, "t.json: column", "not valid JSON");
    REFUSED(parse(&root, "{\"a\": 1,\n \"b\": }", &f), &f, FAULT_INPUT, "t.json: line 2", "not valid JSON");
    REFUSED(parse(&root, "{\"a\": 1", &f), &f, FAULT_INPUT, "t.json: column", "not valid JSON");
    REFUSED(parse(&root, "{\"a\": 1} x", &f), &f, FAULT_INPUT, "t.json: column", "not valid JSON");
    REFUSED(parse(&root, "{\"a\": 1, \"a\": 2}", &f), &f, FAULT_INPUT, "t.json: column", "duplicate");
    REFUSED(parse(&root, "{\"a\": \"\xff\"}", &f), &f, FAULT_INPUT, "t.json: column", "unable to decode byte");
    REFUSED(parse(&root, "[1]", &f), &f, FAULT_INPUT, "t.json", "not a JSON object");
    REFUSED(json_read_file(&root, temporary("absent.json"), &f), &f, FAULT_INPUT, "absent.json", "No such file");

    static char deep[100001];
    memset(deep, '[', 100000);
    REFUSED(parse(&root, deep, &f), &f, FAULT_INPUT, "t.json", "not valid JSON");
}

static void fields(void) {
    json_t *root;
    fault f = {0};
    CHECK(parse(&root, "{\"i\": 7, \"d\": 0.5, \"s\": \"x\", \"b\": true, \"n\": null, \"l\": [1], \"o\": {\"i\": -1}}",
                &f));
    struct json_scope s = {.object = root, .file = "t.json"};
    int64_t i = 3;
    double d = 0.25;
    const char *text = "default";
    bool b = false;
    const json_t *value = NULL;

    CHECK(json_get_integer(s, "i", JSON_REQUIRED, 0, 7, &i, &f) && i == 7);
    REFUSED(json_get_integer(s, "i", JSON_REQUIRED, 8, 9, &i, &f), &f, FAULT_INPUT,
            "t.json: i: ", "is 7, must be 8 to 9");
    REFUSED(json_get_integer(s, "d", JSON_REQUIRED, 0, 9, &i, &f), &f, FAULT_INPUT,
            "t.json: d: ", "must be an integer");
    REFUSED(json_get_integer(s, "x", JSON_REQUIRED, 0, 9, &i, &f), &f, FAULT_INPUT, "t.json: x: ", "missing");
    REFUSED(json_get_integer(s, "n", JSON_REQUIRED, 0, 9, &i, &f), &f, FAULT_INPUT, "t.json: n: ", "missing");
    CHECK(json_get_integer(s, "x", JSON_OPTIONAL, 0, 9, &i, &f) && i == 7);
    CHECK(json_get_integer(s, "n", JSON_OPTIONAL, 0, 9, &i, &f) && i == 7);

    CHECK(json_get_number(s, "d", JSON_REQUIRED, 0, 1, &d, &f) && d == 0.5);
    CHECK(json_get_number(s, "i", JSON_REQUIRED, 0, 9, &d, &f) && d == 7);
    REFUSED(json_get_number(s, "d", JSON_REQUIRED, 1, 2, &d, &f), &f, FAULT_INPUT, "d: ", "is 0.5, must be 1 to 2");
    REFUSED(json_get_number(s, "s", JSON_OPTIONAL, 1, 2, &d, &f), &f, FAULT_INPUT, "s: ", "must be a number");

    CHECK(json_get_string(s, "s", JSON_REQUIRED, &text, &f) && strcmp(text, "x") == 0);
    REFUSED(json_get_string(s, "i", JSON_OPTIONAL, &text, &f), &f, FAULT_INPUT, "i: ", "must be a string");
    CHECK(json_get_bool(s, "b", JSON_REQUIRED, &b, &f) && b);
    REFUSED(json_get_bool(s, "i", JSON_OPTIONAL, &b, &f), &f, FAULT_INPUT, "i: ", "true or false");
    CHECK(json_get_array(s, "l", JSON_REQUIRED, &value, &f) && json_array_size(value) == 1);
    REFUSED(json_get_array(s, "o", JSON_REQUIRED, &value, &f), &f, FAULT_INPUT, "o: ", "must be a list");
    REFUSED(json_get_object(s, "l", JSON_REQUIRED, &value, &f), &f, FAULT_INPUT, "l: ", "must be an object");
    CHECK(json_get_object(s, "o", JSON_REQUIRED, &value, &f));
    CHECK(json_has(s, "i") && !json_has(s, "n") && !json_has(s, "x"));

    struct json_scope inner = {.object = value, .file = "t.json", .within = "o"};
    REFUSED(json_get_integer(inner, "i", JSON_REQUIRED, 0, 9, &i, &f), &f, FAULT_INPUT, "t.json: o.i: ", "is -1");
    json_decref(root);
}

static void writing(void) {
    const double numbers[] = {0.1, 1.0 / 3.0, 1e-5, 5e-324, 12345678.9};
    fault f = {0};
    for (size_t n = 0; n < sizeof numbers / sizeof *numbers; n++) {
        json_t *root = json_pack("{s:f, s:i}", "z", numbers[n], "a", 1), *back = NULL;
        CHECK(json_write_file(root, temporary("w.json"), &f));
        CHECK(json_read_file(&back, temporary("w.json"), &f) && json_equal(root, back));
        json_decref(root);
        json_decref(back);
    }
    json_t *root = json_pack("{s:f, s:i}", "z", 0.1, "a", 1);
    struct mapped_file map;
    const char *text = "{\n  \"z\": 0.1,\n  \"a\": 1\n}\n";
    CHECK(json_write_file(root, temporary("w.json"), &f) && file_map(&map, temporary("w.json"), &f));
    CHECK(map.size == strlen(text) && memcmp(map.data, text, map.size) == 0);
    file_unmap(&map);
    REFUSED(json_write_file(root, temporary("no/w.json"), &f), &f, FAULT_INPUT, "no/w.json", "No such file");
    json_decref(root);
}

int main(void) {
    broken_text();
    fields();
    writing();
    return check_end();
}
