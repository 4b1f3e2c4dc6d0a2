% The Graph Challenge's inference loop, as published for MATLAB, timed in GNU Octave.
% Called by compare.py as: octave --eval "folder = '...'; layers = 120; bias = -0.3; cap = 32; challenge"
% Reads z (rows x neurons) from images.mat and W (neurons x neurons) from layer-1.mat ...; writes result.txt:
% the seconds of the loop, then the 1-based ids of the rows with a positive sum, one a line.
images = load(fullfile(folder, 'images.mat'));
Y = images.z;
W = cell(layers, 1);
for k = 1:layers
  layer = load(fullfile(folder, sprintf('layer-%d.mat', k)));
  W{k} = layer.W;
end
B = diag(bias * ones(1, columns(Y)));  % Octave doesn't broadcast a sparse row over a sparse matrix

started = tic;
for k = 1:layers
  Z = Y * W{k};
  Y = Z + double(logical(Z)) * B;
  Y(Y < 0) = 0;
  Y(Y > cap) = cap;
end
ids = find(full(sum(Y, 2)) > 0);
seconds = toc(started);

file = fopen(fullfile(folder, 'result.txt'), 'w');
fprintf(file, '%.6f\n', seconds);
fprintf(file, '%d\n', ids);
fclose(file);
