/* tenon compose, extract and resize over golden cases and made-up models. */
#include "program.h"

#define COMBINE TENON_SOURCE_ROOT "/tests/golden/combine/"
#define LORA TENON_SOURCE_ROOT "/tests/golden/lora_basic/"

static void compose_says_how_far_it_is_from_the_sum(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM compose --adapter " COMBINE "svd/adapter_0 --weight 0.7 --adapter " COMBINE
             "svd/adapter_1 --weight -0.5 --out exact");
    printed("composed 2 adapters: 2 modules, rank 6, ");
    printed("relative error against the exact weighted sum: ");
    printed("; worst module: ");
    printed("  exact/adapter_config.json  ");
    printed("  exact/adapter_model.safetensors  ");
    exits(0, "$TENON_PROGRAM compose --adapter " COMBINE "svd/adapter_0 --adapter " COMBINE
             "svd/adapter_1 --mode svd --rank 3 --out cut --json");
    printed("\"modules\": 2,");
    printed("\"highest_rank\": 3,");
    printed("\"relative_error\": 0.");
    printed("\"worst_module\": \"model.layers.1.self_attn.");
    exits(0, "$TENON_PROGRAM inspect exact --verify");
}

static void composed_adapter_runs_on_its_model(void **state) {
    (void)state;
    exits(0, "$TENON_PROGRAM compose --model " LORA "base --adapter " LORA "adapter --weight 0.5 --adapter " LORA
             "adapter --weight 0.5 --mode svd --out half && $TENON_PROGRAM merge --model " LORA
             "base --adapter half --out merged --dtype f32");
    printed("merged 4 modules into merged");
    exits(0, "$TENON_PROGRAM extract --base " LORA "base --tuned merged --energy 0.999 --out found");
    printed("extracted an adapter: 4 modules, ");
    printed("energy kept over all modules: ");
    exits(0, "$TENON_PROGRAM resize --adapter found --rank 1 --out small");
    printed("resized the adapter: 4 modules, rank 1, ");
    exits(0, "$TENON_PROGRAM resize --adapter found --energy 0.9 --out small --json");
    printed("\"energy\": 0.9");
    exits(0, "$TENON_PROGRAM forward --model " LORA "base --adapter small --input " LORA
             "io.safetensors --output out.safetensors");
}

static void wrong_use_is_explained(void **state) {
    (void)state;
    exits(2, "$TENON_PROGRAM compose --adapter a --weight 1 --weight 2 --out x");
    printed("1 adapters and 2 weights: give one --weight for each --adapter");
    exits(2, "$TENON_PROGRAM compose --adapter a --weight half --out x");
    printed("--weight: 'half' is not a number");
    exits(2, "$TENON_PROGRAM compose --adapter a --mode tie --out x");
    printed("did you mean ties?");
    exits(1, "$TENON_PROGRAM compose --adapter nowhere --out x");
    printed("nowhere is not a folder");
    exits(1, "$TENON_PROGRAM compose --adapter " COMBINE "svd/adapter_0 --adapter " COMBINE
             "svd/adapter_1 --mode linear --out x");
    printed("use svd, cat or a mode that ends in _svd");
    exits(2, "$TENON_PROGRAM resize --adapter " LORA "adapter --out x");
    printed("give either --rank or --energy");
    exits(2, "$TENON_PROGRAM extract --base a --tuned b --rank 2 --energy 0.5 --out x");
    printed("give either --rank or --energy");
    exits(1, "$TENON_PROGRAM extract --base " LORA "base --tuned " LORA "base --rank 2 --out x");
    printed("the two checkpoints hold the same values");
    exits(1, "test -e x");
}

static void what_gets_no_lora_is_reported_loudly(void **state) {
    (void)state;
    exits(0, "rm -rf merged && $TENON_PROGRAM merge --model " TENON_SOURCE_ROOT
             "/tests/golden/lora_embedding/base --adapter " TENON_SOURCE_ROOT
             "/tests/golden/lora_embedding/adapter --out merged --dtype f32");
    run("$TENON_PROGRAM extract --base " TENON_SOURCE_ROOT
        "/tests/golden/lora_embedding/base --tuned merged --rank 4 --out rest");
    printed("tensors differ and got no LoRA; THE ADAPTER IS WITHOUT THEM (--keep-rest keeps them):");
    printed("  model.embed_tokens.weight  |difference| ");
    exits(0, "$TENON_PROGRAM extract --base " TENON_SOURCE_ROOT
             "/tests/golden/lora_embedding/base --tuned merged --rank 4 --keep-rest --out rest --json");
    printed("\"kept\": true");
}

static void golden_combinations_agree(void **state) {
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
    exits(0, "$PYTHON \"$TOOLS\" $TENON_PROGRAM \"$GOLDEN\" -k 'combine_*'");
    printed(" 0 failed");
}

static void full_disk_leaves_nothing(void **state) {
    (void)state;
    exits(1, "mkdir full; trap '' XFSZ; ulimit -f 1; $TENON_PROGRAM resize --adapter " LORA "adapter --rank 4 --out full");
    printed("tenon: cannot write full/adapter_model.safetensors: File too large\n");
    exits(0, "ls -A full");
    assert_string_equal(text(), "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(compose_says_how_far_it_is_from_the_sum),
        cmocka_unit_test(composed_adapter_runs_on_its_model),
        cmocka_unit_test(wrong_use_is_explained),
        cmocka_unit_test(what_gets_no_lora_is_reported_loudly),
        cmocka_unit_test(golden_combinations_agree),
        cmocka_unit_test(full_disk_leaves_nothing),
    };
    return cmocka_run_group_tests_name("cli_compose", tests, make_folder, remove_folder);
}
