/* libtenon: fitting adapters to pretrained models. Every function documents its errors; tn_error_message() has the words. */
#ifndef TENON_TENON_H
#define TENON_TENON_H

#include <tenon/adapters.h>
#include <tenon/bench.h>
#include <tenon/compose.h>
#include <tenon/error.h>
#include <tenon/evaluate.h>
#include <tenon/features.h>
#include <tenon/generate.h>
#include <tenon/methods.h>
#include <tenon/model.h>
#include <tenon/profile.h>
#include <tenon/quantize.h>
#include <tenon/train.h>

#endif
