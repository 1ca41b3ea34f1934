/* tenon merge and tenon unmerge over the golden cases. */
#include "program.h"

static void merge_reports_what_it_did(void **state) {
    (void)state;
    need_shared("CASE", "golden/lora_basic");
    exits(0, "$TENON_PROGRAM merge --model \"$CASE\"/base --adapter \"$CASE\"/adapter --out merged");
    printed("merged 4 modules into merged\n");
    printed("largest logit difference on a probe, merged against unmerged: ");
    printed("largest rounding of a stored weight: 0\n");
    printed("  merged/config.json  ");
    printed("  merged/model.safetensors  ");
    exits(0, "$TENON_PROGRAM inspect merged --verify");
    exits(0, "$TENON_PROGRAM unmerge --model merged --adapter \"$CASE\"/adapter --out restored");
    printed("took the adapter out of 4 modules; the restored base is in restored\n");
    printed("each restored weight is within ");
}

static void wrong_use_of_merge_is_explained(void **state) {
    (void)state;
    need_shared("CASE", "golden/lora_basic");
    exits(2, "$TENON_PROGRAM merge --model \"$CASE\"/base --out x");
    printed("missing: --adapter");
    exits(2, "$TENON_PROGRAM merge --model \"$CASE\"/base --adapter \"$CASE\"/adapter --out x --dtype f64");
    exits(1, "cp -r \"$CASE\"/base own && chmod -R u+w own && $TENON_PROGRAM merge --model own --adapter \"$CASE\"/adapter "
             "--out own/.");
    printed("own/. is the model's own folder");
    exits(1, "$TENON_PROGRAM merge --model nowhere --adapter \"$CASE\"/adapter --out x");
    printed("nowhere is not a folder");
}

static void golden_merges_agree(void **state) {
    (void)state;
    need_shared("GOLDEN", "golden");
    need_shared("TOOLS", "tools/golden_check.py");
    /* a python in front of the system's may lack numpy */
    if (run("python3 -c 'import numpy'") == 0)
        setenv("PYTHON", "python3", 1);
    else if (run("/usr/bin/python3 -c 'import numpy'") == 0)
        setenv("PYTHON", "/usr/bin/python3", 1);
    else
        skip();
    exits(0, "$PYTHON \"$TOOLS\" $TENON_PROGRAM \"$GOLDEN\" -k 'lora_*' --only merge -x "
             "'lora_bert*,lora_gemma*,lora_gpt*,lora_phi3'");
    printed(" 0 failed");
}

static void full_disk_is_a_failure_without_leftovers(void **state) {
    (void)state;
    need_shared("CASE", "golden/lora_basic");
    exits(1, "mkdir full; trap '' XFSZ; ulimit -f 8; $TENON_PROGRAM merge --model \"$CASE\"/base --adapter "
             "\"$CASE\"/adapter --out full");
    printed("tenon: cannot write full/model.safetensors: File too large\n");
    exits(0, "ls -A full");
    assert_string_equal(text(), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merge_reports_what_it_did),
        cmocka_unit_test(wrong_use_of_merge_is_explained),
        cmocka_unit_test(golden_merges_agree),
        cmocka_unit_test(full_disk_is_a_failure_without_leftovers),
    };
    return cmocka_run_group_tests_name("cli_merge", tests, make_folder, remove_folder);
}
